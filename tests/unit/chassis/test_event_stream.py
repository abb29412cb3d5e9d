"""A stream of events sends nothing more once its token is revoked."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID, uuid4

import pytest

from chassis.clock import SystemClock
from chassis.http import event_stream
from chassis.http.event_stream import EventStream, Reading
from chassis.ids import PLATFORM_TENANT
from chassis.persistence.database import Database
from chassis.persistence.listener import Listener
from chassis.security.principals import Principal
from chassis.security.tokens import TokenVerifier
from chassis.security.vault import Vault
from chassis.service import Service
from chassis.settings import Settings
from dotmac_contracts.tenant import SessionEnded

NOW = datetime.now(UTC)
SESSION, USER = uuid4(), uuid4()


@pytest.fixture
def service() -> Service:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/nothing")
    parts = (nowhere, nowhere, SystemClock(), TokenVerifier(""), Vault("of nothing that is sealed"))
    listener = Listener("", "test", application_name="test")
    return Service("test", Settings.model_validate({}), *parts, listeners={"test": listener})


def stream(service: Service, *readings: Reading) -> AsyncIterator[bytes]:
    """Return what is sent of these, one after the other, and of nothing from then on."""
    who = Principal(
        str(USER), PLATFORM_TENANT, frozenset(), (), str(uuid4()), NOW, NOW + timedelta(hours=1), str(SESSION)
    )
    first, *rest = readings

    async def read(position: int) -> Reading:
        return rest.pop(0) if rest else Reading([], position, more=False)

    sent = EventStream(service, who, "test", "key", read, retry_milliseconds=1000).response(0, first).body_iterator
    return cast(AsyncIterator[bytes], sent)


def revoke(service: Service, session: UUID = SESSION) -> None:
    ended = SessionEnded(
        tenant_id=PLATFORM_TENANT,
        user_id=USER,
        session_id=session,
        expires_at=NOW + timedelta(hours=1),
        reason="signed-out",
    )
    service.tokens.revocations.add(ended)


async def test_it_ends_before_the_next_event_of_those_that_were_read_already(service: Service) -> None:
    sent = stream(service, Reading([b"one", b"two", b"three"], 3, more=False))
    await anext(sent)  # the position
    assert await anext(sent) == b"one"
    revoke(service, uuid4())  # another's
    assert await anext(sent) == b"two"
    revoke(service)
    assert await anext(sent, None) is None


async def test_it_ends_instead_of_the_next_heartbeat(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.01)
    sent = stream(service, Reading([], 0, more=False))
    await anext(sent)
    assert b"heartbeat" in await anext(sent)
    revoke(service)
    assert await anext(sent, None) is None


async def test_what_is_read_after_it_is_revoked_is_not_sent(service: Service) -> None:
    sent = stream(service, Reading([b"one"], 1, more=True), Reading([b"two"], 2, more=False))
    await anext(sent)
    assert await anext(sent) == b"one"
    revoke(service)
    assert await anext(sent, None) is None
