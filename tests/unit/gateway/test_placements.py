"""The gateway asks a tenant's own instances from the moment that it hears of them, and no others of the tenant's."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from dotmac_contracts.envelope import Envelope, Event
from dotmac_contracts.provisioning import DeploymentSucceeded, RouteAssigned, RouteWithdrawn
from gateway.breaker import CircuitBreaker
from gateway.placements import Placements
from gateway.turn import Turn
from gateway.upstream import Upstream

TENANT = uuid4()
CUSTOMER, BILLING = "http://127.0.0.1:20001", "http://127.0.0.1:20002"


def connect(service: str, address: str) -> Upstream:
    return Upstream(service, address, Turn(), concurrency=1, breaker=CircuitBreaker(5, 1.0))


def tell(placements: Placements, event: Event, version: int) -> None:
    now = datetime.now(UTC)
    envelope = Envelope(uuid4(), "/services/provisioning", event.TYPE, now, event.key, event.tenant_id, version)
    placements.hear(envelope, event)


def assigned(**addresses: str) -> RouteAssigned:
    return RouteAssigned(tenant_id=TENANT, deployment_id=uuid4(), addresses=addresses)


def asked(placements: Placements, service: str, tenant: UUID = TENANT) -> bytes | None:
    found = placements.upstream(tenant, service, connect)
    return found.authority if found else None


def test_only_a_tenants_own_instances_are_asked_instead() -> None:
    placements = Placements()
    assert asked(placements, "customer") is None
    tell(placements, assigned(customer=CUSTOMER, billing=BILLING), 1)
    assert asked(placements, "customer") == b"127.0.0.1:20001"
    assert asked(placements, "billing") == b"127.0.0.1:20002"
    assert asked(placements, "tenant") is None
    assert asked(placements, "customer", uuid4()) is None
    assert placements.upstream(TENANT, "customer", connect) is placements.upstream(TENANT, "customer", connect)
    assert len(list(placements)) == 2


def test_the_last_version_holds_in_whatever_order_it_comes() -> None:
    placements = Placements()
    tell(placements, assigned(customer=CUSTOMER), 1)
    before = placements.upstream(TENANT, "customer", connect)
    tell(placements, assigned(customer=BILLING), 2)
    assert asked(placements, "customer") == b"127.0.0.1:20002"
    assert before not in list(placements)
    tell(placements, RouteWithdrawn(tenant_id=TENANT), 3)
    tell(placements, assigned(customer=CUSTOMER), 1)
    tell(placements, DeploymentSucceeded(tenant_id=TENANT, deployment_id=uuid4()), 9)
    assert asked(placements, "customer") is None
    assert list(placements) == []


async def test_a_tenant_that_moves_is_waited_for_until_its_next_route() -> None:
    placements = Placements()
    held = RouteAssigned(tenant_id=TENANT, deployment_id=uuid4(), addresses={}, on_hold=("customer",))
    tell(placements, held, 1)
    assert placements.on_hold(TENANT) == {"customer"}
    assert not placements.on_hold(uuid4())
    waiting = asyncio.create_task(placements.moved(TENANT))
    await asyncio.sleep(0)
    assert not waiting.done()
    tell(placements, held, 2)  # it is told again, and waited for on
    await asyncio.sleep(0)
    assert not waiting.done()
    tell(placements, assigned(customer=CUSTOMER), 3)
    assert await waiting
    assert asked(placements, "customer") == b"127.0.0.1:20001"
    tell(placements, held, 2)  # an earlier one, read again
    assert not placements.on_hold(TENANT)


async def test_nobody_waits_for_ever_nor_do_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    placements = Placements()
    tell(placements, RouteAssigned(tenant_id=TENANT, deployment_id=uuid4(), addresses={}, on_hold=("customer",)), 1)
    monkeypatch.setattr("gateway.placements._HELD_SECONDS", 0.01)
    assert not await placements.moved(TENANT)
    monkeypatch.setattr("gateway.placements._MOST_HELD", 0)
    monkeypatch.setattr("gateway.placements._HELD_SECONDS", 60.0)
    assert not await placements.moved(TENANT)
