"""Whose users are refused: those of the tenants that are closed, as far as the newest snapshot says."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from chassis.ids import PLATFORM_TENANT
from chassis.security.principals import Principal
from chassis.security.scopes import PLATFORM_ROLES, TENANT_ROLES
from chassis.security.standing import CLOSED, ENTER, Standings, TenantClosed, require_open
from dotmac_contracts.envelope import Envelope
from dotmac_contracts.quota import Quotas
from dotmac_contracts.tenant import TenantResumed, TenantSnapshot, TenantSnapshotRemoved

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = uuid4()


def principal(tenant_id: UUID = TENANT, *scopes: str) -> Principal:
    return Principal("somebody", tenant_id, frozenset(scopes), (), "1", NOW, NOW)


def told(
    standings: Standings, status: str, version: int, tenant_id: UUID = TENANT, quotas: Quotas | None = None
) -> None:
    event = TenantSnapshot(
        tenant_id=tenant_id,
        name="Acme",
        slug="acme",
        contact_email="a@acme.example",
        plan="standard",
        currency="USD",
        country="US",
        time_zone="America/New_York",
        status=status,
        created_at=NOW,
        updated_at=NOW,
        quotas=quotas,
    )
    key = str(tenant_id)
    standings.hear(Envelope(uuid4(), "/services/tenant", event.TYPE, NOW, key, tenant_id, version), event)


@pytest.mark.parametrize("status", CLOSED)
def test_users_of_a_closed_tenant_are_refused_with_the_reason_and_nobody_else(status: str) -> None:
    standings = Standings()
    told(standings, "active", 2)
    standings.require_open(principal())
    told(standings, status, 3)
    with pytest.raises(TenantClosed) as refused:
        standings.require_open(principal())
    assert (refused.value.status, refused.value.slug) == (status, CLOSED[status][0])
    standings.require_open(principal(uuid4()))
    standings.require_open(principal(PLATFORM_TENANT))
    standings.require_open(principal(TENANT, ENTER))
    told(standings, "active", 4)
    standings.require_open(principal())


def test_one_that_is_taken_back_has_left() -> None:
    standings = Standings()
    removed = TenantSnapshotRemoved(tenant_id=TENANT)
    standings.hear(Envelope(uuid4(), "/services/tenant", removed.TYPE, NOW, str(TENANT), TENANT, 5), removed)
    told(standings, "active", 4)
    with pytest.raises(TenantClosed) as refused:
        standings.require_open(principal())
    assert refused.value.status == "deprovisioned"


@pytest.mark.parametrize("status", ["registered", "deploying", "active", "failed", "something that is not known yet"])
def test_any_other_status_lets_in(status: str) -> None:
    standings = Standings()
    told(standings, status, 1)
    standings.require_open(principal())
    assert standings.version == 0
    require_open(status)


def test_what_is_read_again_opens_no_closed_tenant() -> None:
    standings = Standings()
    history = (("active", 2), ("suspended", 3), ("active", 4), ("suspended", 5))
    for status, version in history:
        told(standings, status, version)
    for status, version in history:
        told(standings, status, version)
        assert standings.is_closed(TENANT)


def test_a_version_says_when_to_look_again_and_is_still_while_nothing_changes() -> None:
    standings = Standings()
    versions = []
    for number, status in enumerate(("active", "active", "suspended", "suspended", "maintenance", "active", "active")):
        told(standings, status, number)
        versions.append(standings.version)
    assert versions == [0, 0, 1, 1, 2, 3, 3]
    event = TenantResumed(tenant_id=TENANT)
    standings.hear(Envelope(uuid4(), "/services/tenant", event.TYPE, NOW, str(TENANT), TENANT, 9), event)
    assert standings.version == 3


def test_no_role_enters_a_closed_tenant() -> None:
    assert all(ENTER not in scopes for scopes in (*PLATFORM_ROLES.values(), *TENANT_ROLES.values()))
