"""Quotas of a tenant's plan: nothing beyond them, and others are told when one is nearly used."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from chassis.ids import new_id
from chassis.messaging.subscription import Received
from deploy.stack.stack import Stack
from dotmac_contracts.envelope import Envelope
from dotmac_contracts.quota import Quotas
from dotmac_contracts.tenant import TenantSnapshot
from services.customer.use_cases.count_customers import keep_quotas
from services.tenant.domain.plans import PLANS, PlanCode
from tests.api import Answer, Api, eventually
from tests.conftest import Tenant, deploy, registration
from tests.feed import Reader, everything
from tests.in_process import service_in_process
from tests.integration.test_flow import imported
from tests.integration.test_snapshots import asked, published
from tests.integration.test_users import invited

V1 = "/api/v1"
ANY = {"If-Match": "*"}
STARTER = PLANS[PlanCode.STARTER]


async def known(isp: Tenant, limit: int | None) -> None:
    """Return once the customer service knows what the plan allows."""

    async def told() -> bool:
        quota = (await isp.api.send("GET", f"{V1}/workspace")).expect(200)["customer_quota"]
        return quota is not None and quota["limit"] == limit

    await eventually(told)


async def used(isp: Tenant) -> tuple[int, int]:
    """Return how many customers are counted, and how many there are."""
    quota = (await isp.api.send("GET", f"{V1}/workspace")).expect(200)["customer_quota"]
    return quota["used"], (await isp.api.send("GET", f"{V1}/customers/summary")).expect(200)["active"]


@pytest.fixture
async def starter(public: Api, platform: Api) -> Tenant:
    isp = await deploy(public, platform, plan="starter")
    await known(isp, STARTER.customers)
    return isp


def lines(first: int, end: int, status: str = "active") -> str:
    rows = "".join(f"Q-{number},Customer {number},{status}\n" for number in range(first, end))
    return f"external_reference,name,status\n{rows}"


async def added(isp: Tenant, name: str = "Ada") -> Answer:
    return await isp.api.send("POST", f"{V1}/customers", {"name": name})


async def told(stack: Stack, service: str, kind: str, tenant: str) -> list[tuple[int, int, int]]:
    """Return percent, limit and use of the events of a tenant's quota, in their order."""
    await published(stack)
    rows = await asked(
        stack,
        service,
        "select convert_from(value, 'utf8')::json as value, headers->>'ce_aggregateversion' as version from journal"
        " where tenant_id = $1 and headers->>'ce_type' = $2 order by (headers->>'ce_aggregateversion')::int",
        tenant,
        f"dotmac.{service}.{kind}",
    )
    values: list[dict[str, Any]] = [json.loads(row["value"]) for row in rows]
    return [(value["percent"], value["limit"], value["used"]) for value in values]


async def test_customers_beyond_the_quota_are_refused_and_its_thresholds_told(
    stack: Stack, platform: Api, starter: Tenant
) -> None:
    limit = STARTER.customers
    assert limit == 1000

    async def events() -> list[tuple[int, int, int]]:
        return await told(stack, "customer", "CustomerQuotaThresholdReached", starter.id)

    assert (await imported(starter.api, lines(0, 799)))["created"] == 799
    assert await events() == []
    (await added(starter)).expect(201)
    eighty = (80, limit, 800)
    assert await events() == [eighty]
    # Those who have left don't count; the rest of a file is imported as far as there is room.
    assert (await imported(starter.api, lines(5000, 5010, "terminated")))["created"] == 10
    job = await imported(starter.api, lines(700, 1004))
    assert (job["created"], job["unchanged"], job["rejected"]) == (200, 99, 5)
    page = (await starter.api.send("GET", f"{V1}/customers/imports/{job['id']}/rejections")).expect(200)
    assert {item["reason"] for item in page["items"]} == {"quota-exceeded: the plan allows 1,000 customers"}
    assert [item["row"]["external_reference"] for item in page["items"]] == [f"Q-{n}" for n in range(999, 1004)]
    assert await used(starter) == (limit, limit)
    refused = await added(starter)
    refused.problem(409, "quota-exceeded")
    assert (refused.body["quota"], refused.body["limit"], refused.body["used"]) == ("customers", limit, limit)
    hundred = (100, limit, limit)
    assert await events() == [eighty, hundred]
    # The same file again changes nothing, though it is full; one who leaves makes room, by the API or by a file.
    assert (await imported(starter.api, lines(0, 999)))["unchanged"] == 999
    job = await imported(starter.api, lines(0, 1, "terminated") + "Q-2000,New,active\nQ-2001,Newer,active\n")
    assert (job["updated"], job["created"], job["rejected"]) == (1, 1, 1)
    assert await events() == [eighty, hundred]
    (customer,) = (await starter.api.send("GET", f"{V1}/customers", params={"external_reference": "Q-1"})).expect(200)[
        "items"
    ]
    (await starter.api.send("POST", f"{V1}/customers/{customer['id']}/terminate", {})).expect(200)
    (await added(starter)).expect(201)
    (await added(starter)).problem(409, "quota-exceeded")
    assert await events() == [eighty, hundred, hundred]
    # A larger plan has room at once that it is known, and the smaller one again has none: nobody is taken away.
    path = f"{V1}/tenants/{starter.id}"
    (await platform.send("PATCH", path, {"plan": "premium"}, headers=ANY)).expect(200)
    await known(starter, None)
    (await added(starter)).expect(201)
    (await platform.send("PATCH", path, {"plan": "starter"}, headers=ANY)).expect(200)
    await known(starter, limit)
    (await added(starter)).problem(409, "quota-exceeded")
    assert await used(starter) == (limit + 1, limit + 1)
    assert await events() == [eighty, hundred, hundred, (80, limit, limit + 1), (100, limit, limit + 1)]


async def test_many_at_once_get_exactly_what_is_left(stack: Stack, starter: Tenant) -> None:
    limit = STARTER.customers
    assert limit is not None
    # 1,005 for 1,000, in two files and ten requests at once.
    files, *answers = await asyncio.gather(
        asyncio.gather(imported(starter.api, lines(0, limit - 10)), imported(starter.api, lines(2000, 2005))),
        *(added(starter, f"Customer {number}") for number in range(10)),
    )
    assert sum(job["rejected"] for job in files) + [answer.status for answer in answers].count(409) == 5
    assert await used(starter) == (limit, limit)
    more = await asyncio.gather(*(added(starter, f"More {number}") for number in range(20)))
    assert {answer.status for answer in more} == {409}
    (customer,) = (await starter.api.send("GET", f"{V1}/customers", params={"limit": "1"})).expect(200)["items"]
    (await starter.api.send("POST", f"{V1}/customers/{customer['id']}/terminate", {})).expect(200)
    more = await asyncio.gather(*(added(starter, f"More {number}") for number in range(20)))
    assert sorted(answer.status for answer in more) == [201] + [409] * 19
    assert await used(starter) == (limit, limit)
    events = await told(stack, "customer", "CustomerQuotaThresholdReached", starter.id)
    assert [percent for percent, _, _ in events] == [80, 100, 100]


async def test_a_plan_told_late_changes_nothing_and_each_telling_counts_anew(
    stack: Stack, public: Api, platform: Api
) -> None:
    isp = await deploy(public, platform)
    await known(isp, PLANS[PlanCode.STANDARD].customers)
    tenant_id = UUID(isp.id)

    async def hear(version: int, quotas: Quotas | None) -> None:
        now = datetime.now(UTC)
        facts = {**registration(), "tenant_id": tenant_id, "status": "active", "created_at": now, "updated_at": now}
        event = TenantSnapshot(**facts, quotas=quotas)
        envelope = Envelope(new_id(), "/services/test", event.TYPE, now, event.key, tenant_id, version)
        async with service_in_process(stack, "customer") as service, service.consumer_db.for_tenants([tenant_id]) as tx:
            await keep_quotas(tx, service, [Received(envelope, event)])

    # A tenant from before customers were counted: those that are there count with the next one.
    for _ in range(2):
        (await added(isp)).expect(201)
    await asked(stack, "customer", "delete from customer_quota where tenant_id = $1", isp.id)
    (await added(isp)).expect(201)
    assert await used(isp) == (3, 3)
    await hear(100, Quotas(customers=4))
    await hear(99, Quotas(customers=9))
    await hear(101, None)  # by a service that knows of no quotas
    await known(isp, 4)
    (await added(isp)).expect(201)
    (await added(isp)).problem(409, "quota-exceeded")
    # Whoever did not count, as a version from before, is put right; a plan may be told anew with other quotas.
    await asked(stack, "customer", "update customer_quota set used = 1 where tenant_id = $1", isp.id)
    await hear(100, Quotas(customers=5))
    await known(isp, 5)
    assert await used(isp) == (4, 4)
    (await added(isp)).expect(201)
    (await added(isp)).problem(409, "quota-exceeded")


async def test_the_platforms_plans_are_listed_and_a_tenant_has_one_of_them(platform: Api, tenant: Tenant) -> None:
    plans = (await platform.send("GET", f"{V1}/tenants/plans")).expect(200)["items"]
    assert [plan["code"] for plan in plans] == ["starter", "standard", "premium"]
    assert plans[0] == {"code": "starter", "customers": 1000, "users": 10, "api_calls_a_minute": 600}
    (await tenant.api.send("GET", f"{V1}/tenants/plans")).problem(403)
    path = f"{V1}/tenants/{tenant.id}"
    (await platform.send("PATCH", path, {"plan": "gold"}, headers=ANY)).problem(422)


async def test_users_beyond_the_quota_are_refused_and_its_thresholds_told(
    stack: Stack, platform: Api, starter: Tenant
) -> None:
    limit = STARTER.users
    assert limit == 10

    async def events() -> list[tuple[int, int, int]]:
        return await told(stack, "tenant", "UserQuotaThresholdReached", starter.id)

    async def version() -> int:
        return int((await platform.send("GET", f"{V1}/tenants/{starter.id}")).expect(200)["version"])

    known_before = await version()
    users = [(await invited(starter.api, "sales")).expect(201) for _ in range(6)]  # and the administrator
    assert await events() == []
    assert await version() == known_before
    users.append((await invited(starter.api, "sales")).expect(201))
    assert await events() == [(80, limit, 8)]
    # Five for the two that are left, all at once.
    answers = await asyncio.gather(*(invited(starter.api, "sales") for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [201] * 2 + [409] * 3
    refused = next(answer for answer in answers if answer.status == 409)
    refused.problem(409, "quota-exceeded")
    assert (refused.body["quota"], refused.body["limit"], refused.body["used"]) == ("users", limit, limit)
    assert len((await starter.api.send("GET", f"{V1}/users")).expect(200)["items"]) == limit
    full = [(80, limit, 8), (100, limit, limit)]
    assert await events() == full
    # One who is there is invited anew; one who goes makes room.
    (await invited(starter.api, "manager", email=users[0]["email"])).expect(201)
    (await starter.api.send("DELETE", f"{V1}/users/{users[0]['user_id']}")).expect(204)
    (await invited(starter.api, "sales")).expect(201)
    (await invited(starter.api, "sales")).problem(409, "quota-exceeded")
    assert await events() == [*full, full[1]]
    # With another plan there is room at once. Each event is a version of the tenant: none is left out.
    path = f"{V1}/tenants/{starter.id}"
    (await platform.send("PATCH", path, {"plan": "standard"}, headers=ANY)).expect(200)
    (await invited(starter.api, "sales")).expect(201)
    changed = (await platform.send("PATCH", path, {"plan": "starter"}, headers=ANY)).expect(200)
    assert changed["version"] == await version() == known_before + 7
    assert await events() == [*full, full[1], (80, limit, 11), (100, limit, 11)]
    (await invited(starter.api, "sales")).problem(409, "quota-exceeded")


async def test_the_gateway_lets_a_tenant_call_as_often_as_its_plan_allows(
    platform: Api, starter: Tenant, tenant: Tenant
) -> None:
    path = f"{V1}/customers/summary"
    allowed = f'"plan";q={STARTER.api_calls_a_minute};w=60'

    async def limited() -> bool:
        return allowed in (await starter.api.send("GET", path)).headers["RateLimit-Policy"]

    await eventually(limited)
    calls = STARTER.api_calls_a_minute or 0
    answers = await asyncio.gather(*(starter.api.send("GET", path) for _ in range(calls + 200)))
    refused = next(answer for answer in answers if answer.status != 200)
    refused.problem(429, "rate-limited")
    assert refused.body["violated_policies"] == ["plan"]
    assert '"plan"' not in (await tenant.api.send("GET", path)).headers["RateLimit-Policy"]
    (await platform.send("PATCH", f"{V1}/tenants/{starter.id}", {"plan": "standard"}, headers=ANY)).expect(200)

    async def unlimited() -> bool:
        return '"plan"' not in (await starter.api.send("GET", path)).headers["RateLimit-Policy"]

    await eventually(unlimited)
    answers = await asyncio.gather(*(starter.api.send("GET", path) for _ in range(calls)))
    assert {answer.status for answer in answers} == {200}

    # And its own systems were told.
    def told(reader: Reader) -> list[dict[str, Any]]:
        kind = "dotmac.gateway.ApiCallQuotaThresholdReached"
        return [event["data"] for event in reader.events if event["type"] == kind]

    reader = await everything(starter.api, lambda reader: {data["percent"] for data in told(reader)} >= {80, 100})
    assert {(data["percent"], data["limit"]) for data in told(reader)} == {(80, calls), (100, calls)}
