"""What a gateway tells of tenants that use up the API calls of their plans."""

import asyncio
from collections import deque
from uuid import UUID, uuid4

import pytest

from dotmac_contracts.envelope import Envelope
from dotmac_contracts.gateway import ApiCallQuotaThresholdReached
from gateway import notices as module
from gateway.limits import LocalLimiter, Policy, Quota
from gateway.notices import Notices
from gateway.settings import GatewaySettings

PLAN = Policy("plan", Quota(10, 60.0))


def calls(notices: Notices, limiter: LocalLimiter, tenant: UUID, count: int) -> None:
    for _ in range(count):
        notices.look(tenant, PLAN, limiter.take_now([PLAN], [str(tenant)])[0])


def waiting(notices: Notices) -> list[tuple[ApiCallQuotaThresholdReached, Envelope]]:
    found: deque[tuple[ApiCallQuotaThresholdReached, Envelope]] = notices._waiting
    return list(found)


@pytest.fixture(autouse=True)
def an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no hour end while a test looks at one."""
    monkeypatch.setattr(module, "_HOUR_SECONDS", 10**12)


def test_each_threshold_is_told_once_however_often_it_is_reached() -> None:
    notices, limiter, tenant, other = Notices(GatewaySettings()), LocalLimiter(), uuid4(), uuid4()
    calls(notices, limiter, tenant, 7)
    assert waiting(notices) == []
    calls(notices, limiter, tenant, 1)
    calls(notices, limiter, tenant, 30)  # most of them are refused
    calls(notices, limiter, other, 8)
    assert [(event.tenant_id, event.percent, event.limit, event.used) for event, _ in waiting(notices)] == [
        (tenant, 80, 10, 8),
        (tenant, 100, 10, 10),
        (other, 80, 10, 8),
    ]


def test_of_what_several_gateways_tell_subscribers_take_one() -> None:
    tenant = uuid4()
    told = []
    for _ in range(2):
        notices = Notices(GatewaySettings())
        calls(notices, LocalLimiter(), tenant, 10)
        told.append([(envelope.id, envelope.aggregateversion) for _, envelope in waiting(notices)])
    assert told[0] == told[1]
    (first, second) = told[0]
    assert first[0] != second[0]
    assert first[1] < second[1]


def test_it_is_told_again_in_another_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    notices, limiter, tenant = Notices(GatewaySettings()), LocalLimiter(), uuid4()
    calls(notices, limiter, tenant, 10)
    monkeypatch.setattr(module, "_HOUR_SECONDS", 3600)
    calls(notices, limiter, tenant, 1)
    (_, _, again, last) = waiting(notices)
    assert (again[0].percent, last[0].percent) == (80, 100)
    assert len({envelope.id for _, envelope in waiting(notices)}) == 4


async def test_one_that_ends_while_the_broker_is_away_ends_soon() -> None:
    notices = Notices(GatewaySettings(kafka_bootstrap_servers="127.0.0.1:9"))
    notices.start()
    calls(notices, LocalLimiter(), uuid4(), 10)
    async with asyncio.timeout(10):
        await notices.stop()
    assert len(waiting(notices)) == 2
