"""What is delivered twice, can't be read, or waits behind such a one."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from chassis.clock import SystemClock
from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging import dead_letter
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.relay import MOVE
from chassis.persistence.database import Database, Transaction
from deploy.stack.stack import Stack
from dotmac_contracts.billing import PlanChanged
from dotmac_contracts.customer import CustomerCreated
from dotmac_contracts.envelope import Envelope, Record, decode, encode
from dotmac_contracts.money import Money
from dotmac_contracts.topics import BILLING_PLAN
from tests.api import eventually
from tests.conftest import Tenant

V1 = "/api/v1"


@pytest.fixture
async def producer(stack: Stack) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka) as running:
        yield running


@pytest.fixture
async def billing(stack: Stack) -> AsyncIterator[Database]:
    database = Database(stack.database_url("billing", "consumer"), pool_size=2)
    await database.connect()
    yield database
    await database.close()


def created(tenant: Tenant, customer_id: UUID) -> Record:
    event = CustomerCreated(
        customer_id=customer_id, tenant_id=UUID(tenant.id), name="By hand", status="active", paperless_billing=False
    )
    envelope = Envelope(
        id=new_id(),
        source="/services/customer",
        type=CustomerCreated.TYPE,
        time=datetime.now(UTC),
        partitionkey=event.key,
        tenantid=event.tenant_id,
        aggregateversion=1,
    )
    return encode(event, envelope)


async def send(producer: AIOKafkaProducer, record: Record, **changes: Any) -> None:
    changed = record._replace(**changes)
    await producer.send_and_wait(changed.topic, changed.value, changed.key, headers=changed.headers)


async def accounts_of(tenant: Tenant, customer_id: UUID) -> list[Any]:
    answer = await tenant.api.send("GET", f"{V1}/billing-accounts", params={"customer_id": str(customer_id)})
    items: list[Any] = answer.expect(200)["items"]
    return items


async def letters_of(billing: Database, customer_id: UUID) -> list[dead_letter.DeadLetter]:
    async with billing.unscoped() as tx:
        letters = await dead_letter.list_open(tx, "billing-customers")
    return [letter for letter in letters if letter.key == str(customer_id).encode()]


async def test_an_event_that_comes_again_changes_nothing(
    producer: AIOKafkaProducer, billing: Database, tenant: Tenant
) -> None:
    first, fence = new_id(), new_id()
    record = created(tenant, first)
    for _ in range(3):
        await send(producer, record)
    # Of the same key, so behind the repeated ones; what the fence opened, those before it have been through.
    await send(producer, created(tenant, fence), key=record.key)

    async def through() -> bool:
        return bool(await accounts_of(tenant, fence))

    await eventually(through)
    assert len(await accounts_of(tenant, first)) == 1
    async with billing.unscoped() as tx:
        identity = dict(record.headers)["ce_id"].decode()
        seen = await tx.fetchval("select count(*) from inbox where event_id = $1", UUID(identity))
    assert seen == 1
    assert await letters_of(billing, first) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": b"{not json"}, "is not a CustomerCreated"),
        ({"headers": [("ce_id", b"\xff")]}, "not UTF-8"),
        ({"headers": []}, "specversion"),
    ],
)
async def test_a_record_that_can_not_be_read_is_kept_and_what_follows_waits_until_it_is_discarded(
    producer: AIOKafkaProducer, billing: Database, tenant: Tenant, changes: dict[str, Any], reason: str
) -> None:
    customer_id, bystander = new_id(), new_id()
    record = created(tenant, customer_id)
    await send(producer, record, **changes)
    await send(producer, record)
    await send(producer, created(tenant, bystander))

    async def both() -> list[dead_letter.DeadLetter] | None:
        letters = await letters_of(billing, customer_id)
        return letters if len(letters) == 2 else None

    dead, parked = await eventually(both)
    assert reason in dead.reason
    assert (dead.parked, parked.parked) == (False, True)

    async def passed() -> bool:
        return bool(await accounts_of(tenant, bystander))

    await eventually(passed)
    assert await accounts_of(tenant, customer_id) == []
    async with billing.unscoped() as tx:
        assert await dead_letter.act(tx, dead.id, "discard", "test")

    async def opened() -> bool:
        return bool(await accounts_of(tenant, customer_id))

    await eventually(opened)
    assert await letters_of(billing, customer_id) == []


async def test_a_refused_event_is_replayed_once_its_cause_is_mended(
    stack: Stack, producer: AIOKafkaProducer, billing: Database, tenant: Tenant
) -> None:
    # A tenant that billing has no workspace for yet.
    unknown, customer_id = new_id(), new_id()
    stranger = Tenant(str(unknown), "unknown", tenant.api, {})
    await send(producer, created(stranger, customer_id))

    async def refused() -> list[dead_letter.DeadLetter] | None:
        return await letters_of(billing, customer_id) or None

    (letter,) = await eventually(refused)
    assert "no workspace" in letter.reason
    async with billing.for_tenants([unknown]) as tx:
        await tx.execute(
            "insert into workspace (tenant_id, deployment_id, currency, time_zone) values ($1, $1, 'USD', 'UTC')",
            unknown,
        )
    async with billing.unscoped() as tx:
        assert await dead_letter.act(tx, letter.id, "replay", "test")

    async def replayed() -> bool:
        async with billing.for_tenants([unknown]) as tx:
            return bool(await tx.fetchval("select 1 from billing_account where customer_id = $1", customer_id))

    await eventually(replayed)
    assert await letters_of(billing, customer_id) == []


async def test_what_was_published_stands_in_the_journal_in_the_order_of_its_aggregate(
    stack: Stack, tenant: Tenant
) -> None:
    customer = (await tenant.api.send("POST", f"{V1}/customers", {"name": "v1"})).expect(201)
    path = f"{V1}/customers/{customer['id']}"
    for version in range(1, 6):
        headers = {"If-Match": f'"{version}"'}
        (await tenant.api.send("PATCH", path, {"name": f"v{version + 1}"}, headers=headers)).expect(200)
    relay = await asyncpg.connect(stack.database_url("customer", "relay"))

    async def published() -> list[Any] | None:
        rows = await relay.fetch(
            'select headers from journal where topic = $1 and key = $2 order by partition, "offset"',
            "customer.customer.v1",
            customer["id"],
        )
        return rows if len(rows) == 6 else None

    try:
        rows = await eventually(published)
    finally:
        await relay.close()
    assert [json.loads(row["headers"])["ce_aggregateversion"] for row in rows] == ["1", "2", "3", "4", "5", "6"]


async def test_a_batch_is_moved_without_a_look_at_the_rest_of_the_outbox(stack: Stack) -> None:
    """Whatever the planner takes the outbox for: it is vacuumed while it is empty, and then a bulk comes."""
    batch, all_of_them = 1_000, 10_000
    insert = (
        "insert into outbox (event_id, topic, key, tenant_id, headers, value) select gen_random_uuid(), 't', 'k',"
        f" gen_random_uuid(), '{{}}', '' from generate_series(1, {all_of_them}) returning id"
    )

    def looked_at(node: dict[str, Any]) -> int:
        here = (
            node["Actual Rows"] + node.get("Rows Removed by Filter", 0) if node.get("Relation Name") == "outbox" else 0
        )
        below = sum(map(looked_at, node.get("Plans", ())))
        return int(here * node["Actual Loops"]) if "Scan" in node["Node Type"] else below

    owner = await asyncpg.connect(stack.database_url("billing", "owner"))
    try:
        for prepare in ("vacuum (analyze, truncate off) outbox", "vacuum (analyze) outbox"):
            undone = owner.transaction()
            await undone.start()
            await owner.fetch(insert)
            await undone.rollback()
            await owner.execute(prepare)
            undone = owner.transaction()
            await undone.start()
            ids = [row["id"] for row in await owner.fetch(insert)][2 * batch : 3 * batch]
            explained = await owner.fetchval(
                f"explain (analyze, timing off, format json) {MOVE}", ids, [0] * batch, ids, ids[0], ids[-1]
            )
            await undone.rollback()
            plan = json.loads(explained)[0]["Plan"]
            assert looked_at(plan) == batch, plan
    finally:
        await owner.close()


async def test_an_event_that_commits_late_goes_before_what_its_aggregate_says_after_it(stack: Stack) -> None:
    """Also while events around it, with a smaller and a larger id, are sent and wait to be moved to the journal."""
    late, other = new_id(), new_id()

    def changed(plan_id: UUID) -> PlanChanged:
        price = Money(amount_minor=1, currency="USD")
        return PlanChanged(plan_id=plan_id, tenant_id=PLATFORM_TENANT, code="LATE", name="Late", price=price)

    async def tell(tx: Transaction, plan_id: UUID, version: int) -> None:
        await publish(tx, [Outgoing(changed(plan_id), version)], source="/test", clock=SystemClock())

    database = Database(stack.database_url("billing", "api"), pool_size=2)
    await database.connect()
    owner = await asyncpg.connect(stack.database_url("billing", "owner"))
    consumer = AIOKafkaConsumer(BILLING_PLAN.name, bootstrap_servers=stack.kafka, auto_offset_reset="latest")
    await consumer.start()
    await consumer.seek_to_end()
    seen: list[tuple[UUID, int]] = []

    async def sent(what: tuple[UUID, int]) -> None:
        async with asyncio.timeout(30):
            while what not in seen:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        envelope, event = decode(record.headers, record.value)
                        if isinstance(event, PlanChanged) and event.plan_id in (late, other):
                            seen.append((event.plan_id, envelope.aggregateversion))

    try:
        async with owner.transaction():
            await owner.execute("lock table journal in exclusive mode")  # nothing is moved
            async with database.for_tenant(PLATFORM_TENANT) as tx:
                await tell(tx, other, 1)
            async with database.for_tenant(PLATFORM_TENANT) as slow:
                await tell(slow, late, 1)
                async with database.for_tenant(PLATFORM_TENANT) as tx:
                    await tell(tx, other, 2)
                await sent((other, 2))
            async with database.for_tenant(PLATFORM_TENANT) as tx:
                await tell(tx, late, 2)
            await sent((late, 2))
    finally:
        await consumer.stop()
        await owner.close()
        await database.close()
    assert [version for plan_id, version in seen if plan_id == late] == [1, 2]
