"""The path of an event: the relay against a bare producer, the consumer against a bare consumer, and the latency."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from chassis.clock import SystemClock
from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging.consumer import ConsumerRunner
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.relay import Relay
from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Database, Transaction
from chassis.settings import Settings
from deploy.stack.stack import Stack
from dotmac_contracts import topics
from dotmac_contracts.billing import PlanChanged
from dotmac_contracts.money import Money
from services.integration.consumers import audit

EVENTS = 40_000
_PRICE = Money(amount_minor=4000, currency="USD")


@dataclass(frozen=True)
class Rates:
    """Events a second: ours, and the bare peer's of the same run."""

    ours: float
    peer: float


def event(tenant: UUID = PLATFORM_TENANT) -> PlanChanged:
    return PlanChanged(plan_id=new_id(), tenant_id=tenant, code="FIBER", name="Fiber", price=_PRICE)


def settings_of(stack: Stack) -> Settings:
    return Settings(
        kafka_bootstrap_servers=stack.kafka,
        relay_database_url=stack.database_url("billing", "relay"),
        kafka_idempotence=True,
    )


async def fill_outbox(database: Database, count: int, tenants: int = 1) -> None:
    """Insert events of so many tenants as use cases do, a thousand a transaction."""
    owners = [PLATFORM_TENANT, *(new_id() for _ in range(tenants - 1))]
    for number in range(count // 1000):
        async with database.for_tenant(owners[number % tenants]) as tx:
            outgoing = [Outgoing(event(owners[number % tenants]), 1) for _ in range(1000)]
            await publish(tx, outgoing, source="/bench", clock=SystemClock())


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Database]:
    database = Database(url, pool_size=4)
    await database.connect()
    try:
        yield database
    finally:
        await database.close()


async def _until_empty(watch: "asyncpg.Connection[Any]") -> None:
    while await watch.fetchval("select exists (select from outbox)"):
        await asyncio.sleep(0.005)


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return once it holds; TimeoutError if it takes longer."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def relaying(settings: Settings) -> AsyncIterator[None]:
    """Run billing's relay."""
    task = asyncio.create_task(Relay(settings, "billing").run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def relayed(stack: Stack, count: int, tenants: int = 1) -> float:
    """Return events/s of the relay alone: a full outbox, until it is empty and all of it stands in the journal."""
    watch = await asyncpg.connect(stack.database_url("billing", "relay"))
    async with connected(stack.database_url("billing", "api")) as database:
        await fill_outbox(database, count, tenants)
    started = time.perf_counter()
    async with relaying(settings_of(stack)):
        await _until_empty(watch)
        seconds = time.perf_counter() - started
    await watch.close()
    return count / seconds


async def relay(stack: Stack) -> Rates:
    """Measure the relay against a bare producer of the same bytes."""
    ours = await relayed(stack, EVENTS)
    watch = await asyncpg.connect(stack.database_url("billing", "relay"))
    rows = await watch.fetch("select key, headers::text, value from journal order by outbox_id limit $1", EVENTS)
    await watch.close()
    # To another topic, so that the consumer measured next does not meet each event twice.
    records = [
        (
            row["key"].encode(),
            row["value"],
            [(name, text.encode()) for name, text in orjson.loads(row["headers"]).items()],
        )
        for row in rows
    ]
    producer = AIOKafkaProducer(
        bootstrap_servers=stack.kafka, acks="all", enable_idempotence=True, max_batch_size=256 * 1024
    )
    async with producer:
        started = time.perf_counter()
        topic = topics.BILLING_ACCOUNT.name
        sent = [await producer.send(topic, value, key, headers=headers) for key, value, headers in records]
        await asyncio.gather(*sent)
        peer = EVENTS / (time.perf_counter() - started)
    return Rates(ours, peer)


async def waiting(stack: Stack) -> int:
    """Return how many events the consumers of billing's plans have before them, from the topic's beginning."""
    topic = topics.BILLING_PLAN.name
    async with AIOKafkaConsumer(topic, bootstrap_servers=stack.kafka) as reader:
        places = [TopicPartition(topic, number) for number in reader.partitions_for_topic(topic) or ()]
        begins, ends = await reader.beginning_offsets(places), await reader.end_offsets(places)
    return sum(ends[place] - begins[place] for place in places)


async def repartition(stack: Stack, partitions: int) -> None:
    """Give the topic of billing's plans more partitions."""
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka)
    await admin.start()
    try:
        await admin.create_partitions({topics.BILLING_PLAN.name: NewPartitions(partitions)})
    finally:
        await admin.close()


async def _effects(database: Database) -> int:
    async with database.unscoped() as tx:
        count: int = await tx.fetchval("select count(*) from bench_effect")
        return count


async def consumed(stack: Stack, count: int) -> float:
    """Return events/s of a consumer whose effect is a row per event, from its first effect to the last of `count`."""
    owner = await asyncpg.connect(stack.database_url("billing", "owner"))
    await owner.execute(
        "create table if not exists bench_effect (plan_id uuid primary key, amount_minor bigint not null)"
    )
    await owner.execute("truncate bench_effect")
    await owner.execute("grant insert, select on bench_effect to billing_consumer")
    await owner.close()
    done = 0

    def count_effects(number: int) -> None:
        nonlocal done
        done += number

    async def handle(tx: Transaction, received: Sequence[Received[PlanChanged]]) -> None:
        tx.after_commit(partial(count_effects, len(received)))
        await tx.execute(
            "insert into bench_effect select * from unnest($1::uuid[], $2::bigint[])",
            [item.event.plan_id for item in received],
            [item.event.price.amount_minor for item in received],
        )

    async with connected(stack.database_url("billing", "consumer")) as database:
        group = f"bench-{new_id()}"
        runner = ConsumerRunner(
            settings_of(stack), database, [Subscription(group, [topics.BILLING_PLAN], {PlanChanged: handle})]
        )
        async with database.unscoped() as tx:
            await tx.execute("delete from inbox where consumer like 'bench-%'")
        await runner.start()
        await until(lambda: done > 0)  # joining the group is not what is measured
        first, ahead = time.perf_counter(), done
        await until(lambda: done >= count)
        rate = (count - ahead) / (time.perf_counter() - first)
        await runner.stop()
        assert await _effects(database) == count
    return rate


async def audited(stack: Stack, count: int) -> float:
    """Return events/s of the audit log, from its first entry to the last of `count`, each of something new."""
    done = 0

    def count_entries(number: int) -> None:
        nonlocal done
        done += number

    async def handle(tx: Transaction, received: Sequence[Received[PlanChanged]]) -> None:
        tx.after_commit(partial(count_entries, len(received)))
        await audit.subscription().handlers[PlanChanged](tx, received)

    async with connected(stack.database_url("integration", "consumer")) as database:
        subscription = Subscription(f"bench-{new_id()}", [topics.BILLING_PLAN], {PlanChanged: handle})
        runner = ConsumerRunner(settings_of(stack), database, [subscription])
        await runner.start()
        await until(lambda: done > 0)
        first, ahead = time.perf_counter(), done
        await until(lambda: done >= count)
        rate = (count - ahead) / (time.perf_counter() - first)
        await runner.stop()
    return rate


async def consumer(stack: Stack) -> Rates:
    """Measure a consumer with effects against one that only counts."""
    ours = await consumed(stack, EVENTS)
    bare = AIOKafkaConsumer(
        topics.BILLING_PLAN.name,
        bootstrap_servers=stack.kafka,
        group_id=f"bare-{new_id()}",
        auto_offset_reset="earliest",
    )
    async with bare:
        seen, first = 0, 0.0
        while seen < EVENTS:
            batches = await bare.getmany(timeout_ms=200, max_records=500)
            first = first or (time.perf_counter() if batches else 0.0)
            seen += sum(map(len, batches.values()))
        peer = seen / (time.perf_counter() - first)
    return Rates(ours, peer)
