"""A service's parts in the tests' own process, on the databases of the stack."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from chassis.clock import SystemClock
from chassis.ids import new_id
from chassis.messaging.subscription import Received
from chassis.persistence.database import Database
from chassis.security.tokens import TokenVerifier
from chassis.security.vault import Vault
from chassis.service import Service
from chassis.settings import Settings
from deploy.stack.stack import Stack
from dotmac_contracts.envelope import Envelope, Event


@asynccontextmanager
async def service_in_process(stack: Stack, name: str, *secrets: str, **settings: str) -> AsyncIterator[Service]:
    """Give a service as its processes have it, but for what runs in them.

    secrets: what its vault opens with, the first also seals. settings: where they are not the defaults.
    """
    async with AsyncExitStack() as closing:
        databases = [Database(stack.database_url(name, role)) for role in ("api", "consumer")]
        for database in databases:
            await database.connect()
            closing.push_async_callback(database.close)
        vault = Vault(*(secrets or ["of nothing that is sealed already"]))
        yield Service(name, Settings.model_validate(settings), *databases, SystemClock(), TokenVerifier(""), vault)


def received(event: Event) -> Sequence[Received[Any]]:
    """Return an event as a handler is given it, for the first time."""
    envelope = Envelope(new_id(), "/services/test", event.TYPE, datetime.now(UTC), event.key, event.tenant_id, 1)
    return [Received(envelope, event)]
