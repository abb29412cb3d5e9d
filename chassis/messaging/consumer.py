"""The consumers: batches of a partition, ids and effects in one transaction, then the offset (law 3)."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeVar

import aiohttp
import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from opentelemetry import trace
from opentelemetry.propagate import extract
from prometheus_client import Counter, Gauge

from chassis.messaging import dead_letter
from chassis.persistence.database import Database, Transaction
from chassis.settings import Settings
from dotmac_contracts.envelope import DecodeError, Envelope, Event, UnknownEventType, decode
from dotmac_contracts.topics import Topic

log = structlog.get_logger()
tracer = trace.get_tracer("dotmac.consumer")

CONSUMED = Counter("dotmac_consumer_events_total", "Events by what became of them.", ["consumer", "outcome"])
LAG = Gauge("dotmac_consumer_lag", "Events that a consumer has not read yet.", ["consumer", "topic"])

INBOX_RETENTION_DAYS = 14
"""Longer than any topic and the journal reach back, so that a replay is always recognised."""

_BATCH = 500
_IDLE_MS = 200
_LONGEST_BACKOFF_SECONDS = 15.0
_CLEAN_SECONDS = 3600.0

TRANSIENT = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    aiohttp.ClientError,
    OSError,
    TimeoutError,
)
"""What may be well again without anybody's doing. All else is permanent."""

E_co = TypeVar("E_co", bound=Event, covariant=True)


@dataclass(frozen=True, slots=True)
class Received(Generic[E_co]):
    """An event with its envelope."""

    envelope: Envelope
    event: E_co


Handler = Callable[[Transaction, Sequence[Received[Any]]], Awaitable[None]]
"""Takes new events of one type, in order, inside the consumer's transaction."""


class Permanent(Exception):
    """An event can never be handled: it becomes a dead letter."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A consumer group, its topics, and what it does with which event. Other events pass by."""

    consumer: str
    topics: Sequence[Topic]
    handlers: Mapping[type[Event], Handler]


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A record as it came: decoded, or with the reason why it can't be."""

    record: "ConsumerRecord[bytes, bytes]"
    received: Received[Event] | None
    reason: str | None = None


class ConsumerRunner:
    """Runs every subscription of a service until it is stopped."""

    def __init__(self, settings: Settings, db: Database, subscriptions: Sequence[Subscription]) -> None:
        self._settings = settings
        self._db = db
        self._loops = [PartitionLoop(subscription, db) for subscription in subscriptions]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin; a broker that is away is waited for."""
        self._tasks = [
            asyncio.create_task(self._run(loop), name=f"consumer-{loop.subscription.consumer}") for loop in self._loops
        ]
        if self._loops:
            self._tasks.append(asyncio.create_task(self._keep_house(), name="inbox"))

    async def stop(self) -> None:
        """Stop; an open transaction is rolled back and its events come again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def healthy(self) -> bool:
        """Whether every subscription is connected."""
        return all(loop.connected for loop in self._loops)

    async def _run(self, loop: "PartitionLoop") -> None:
        while True:
            broker = KafkaBroker(self._settings.kafka_bootstrap_servers, logger=None)
            # Without a handler: FastStream keeps connection and lifecycle, the loop below loses no record.
            subscriber = broker.subscriber(
                *(topic.name for topic in loop.subscription.topics),
                group_id=loop.subscription.consumer,
                batch=True,
                ack_policy=AckPolicy.MANUAL,
                auto_offset_reset="earliest",
                title=loop.subscription.consumer,
            )
            try:
                await broker.start()
                consumer = subscriber.consumer
                assert consumer is not None
                await loop.follow(consumer)
            except (KafkaError, *TRANSIENT) as error:
                log.warning("consumer_lost_connection", consumer=loop.subscription.consumer, error=repr(error))
            except Exception:
                log.exception("consumer_failed", consumer=loop.subscription.consumer)
            finally:
                loop.connected = False
                with contextlib.suppress(Exception):
                    await broker.stop()
            await asyncio.sleep(1.0)

    async def _keep_house(self) -> None:
        """Replay what was asked for, and forget events that can't come again."""
        cleaned = float("-inf")
        while True:
            try:
                for loop in self._loops:
                    await loop.replay_requested()
                if time.monotonic() - cleaned > _CLEAN_SECONDS:
                    async with self._db.unscoped() as tx:
                        await tx.execute(
                            "delete from inbox where received_at < now() - make_interval(days => $1)",
                            INBOX_RETENTION_DAYS,
                        )
                    cleaned = time.monotonic()
            except TRANSIENT as error:
                log.warning("inbox_housekeeping_failed", error=repr(error))
            await asyncio.sleep(1.0)


class PartitionLoop:
    """Works on the partitions of one subscription; a partition that fails waits, the others go on."""

    def __init__(self, subscription: Subscription, db: Database) -> None:
        self.subscription = subscription
        self._db = db
        self._retry_at: dict[TopicPartition, float] = {}
        self._failures: dict[TopicPartition, int] = {}
        self.connected = False

    async def follow(self, consumer: "AIOKafkaConsumer[bytes, bytes]") -> None:
        """Read and handle until the connection is lost or the task is cancelled."""
        self._retry_at.clear()
        self._failures.clear()
        self.connected = True
        while True:
            self._resume(consumer)
            batches = await consumer.getmany(timeout_ms=_IDLE_MS, max_records=_BATCH)
            for partition, records in batches.items():
                await self._take(consumer, partition, records)
            self._measure(consumer)

    def _resume(self, consumer: "AIOKafkaConsumer[bytes, bytes]") -> None:
        now = time.monotonic()
        for partition in [partition for partition, at in self._retry_at.items() if at <= now]:
            del self._retry_at[partition]
            if partition in consumer.assignment():
                consumer.resume(partition)

    async def _take(
        self,
        consumer: "AIOKafkaConsumer[bytes, bytes]",
        partition: TopicPartition,
        records: "Sequence[ConsumerRecord[bytes, bytes]]",
    ) -> None:
        done = records[0].offset
        try:
            async for offset in self.handle(records):
                done = offset
            self._failures.pop(partition, None)
        except TRANSIENT as error:
            failures = self._failures[partition] = self._failures.get(partition, 0) + 1
            backoff = min(0.1 * 2**failures, _LONGEST_BACKOFF_SECONDS)
            log.warning(
                "partition_paused",
                consumer=self.subscription.consumer,
                partition=str(partition),
                error=repr(error),
                retry_in_seconds=backoff,
            )
            if partition in consumer.assignment():
                consumer.pause(partition)
                consumer.seek(partition, done)
                self._retry_at[partition] = time.monotonic() + backoff
        if done > records[0].offset:
            # Lost to a rebalance, the commit fails, and the inbox recognises what comes again elsewhere.
            with contextlib.suppress(KafkaError):
                await consumer.commit({partition: done})

    def _measure(self, consumer: "AIOKafkaConsumer[bytes, bytes]") -> None:
        lag: dict[str, int] = {}
        for partition in consumer.assignment():
            end, position = consumer.highwater(partition), consumer.last_stable_offset(partition)
            subscribed = consumer._subscription.subscription
            assignment = subscribed.assignment if subscribed else None
            if end is None or position is None or assignment is None:
                continue
            state = assignment.state_value(partition)
            if state is not None and state.has_valid_position:
                lag[partition.topic] = lag.get(partition.topic, 0) + max(0, end - state.position)
        for topic, behind in lag.items():
            LAG.labels(self.subscription.consumer, topic).set(behind)

    async def handle(self, records: "Sequence[ConsumerRecord[bytes, bytes]]") -> Any:
        """Handle records of one partition; yield the offset to commit after each database commit."""
        deliveries = [_delivery(record) for record in records]
        try:
            await self._commit(deliveries)
        except TRANSIENT:
            if len(deliveries) == 1:
                raise
        except Exception as error:
            log.warning("batch_failed", consumer=self.subscription.consumer, error=repr(error))
        else:
            yield records[-1].offset + 1
            return
        for delivery in deliveries:
            await self._one(delivery)
            yield delivery.record.offset + 1

    async def _one(self, delivery: _Delivery) -> None:
        try:
            await self._commit([delivery])
        except TRANSIENT:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log.error("event_refused", consumer=self.subscription.consumer, reason=reason, exc_info=error)
            await self._commit([_Delivery(delivery.record, None, reason)])

    async def _commit(self, deliveries: Sequence[_Delivery]) -> None:
        """Record and handle deliveries in one transaction."""
        consumer = self.subscription.consumer
        tenants = {item.received.envelope.tenantid for item in deliveries if item.received}
        async with self._db.for_tenants(tenants) as tx:
            blocked = await dead_letter.blocked_keys(
                tx, consumer, deliveries[0].record.topic, [item.record.key for item in deliveries]
            )
            fresh: list[Received[Event]] = []
            for item in deliveries:
                key = item.record.key
                if item.received is None and item.reason is None:
                    continue  # an event type that this consumer's contracts don't know
                if item.received is not None and key not in blocked:
                    fresh.append(item.received)
                    continue
                if item.received is not None and type(item.received.event) not in self.subscription.handlers:
                    continue
                parked = key in blocked
                await dead_letter.add(
                    tx, consumer, item.record, item.reason or "waits behind a dead letter of its key", parked
                )
                CONSUMED.labels(consumer, "parked" if parked else "dead").inc()
                if key is not None:
                    blocked.add(key)
            await self._apply(tx, fresh)

    async def _apply(self, tx: Transaction, received: Sequence[Received[Event]]) -> None:
        """Handle those that this consumer has not seen, run by run of one type."""
        handlers = self.subscription.handlers
        wanted = [item for item in received if type(item.event) in handlers]
        if not wanted:
            return
        consumer = self.subscription.consumer
        rows = await tx.fetch(
            "insert into inbox (consumer, source, event_id) select $1, * from unnest($2::text[], $3::uuid[])"
            " on conflict do nothing returning source, event_id",
            consumer,
            [item.envelope.source for item in wanted],
            [item.envelope.id for item in wanted],
        )
        new = {(row["source"], row["event_id"]) for row in rows}
        CONSUMED.labels(consumer, "duplicate").inc(len(wanted) - len(new))
        fresh: list[Received[Event]] = []
        for item in wanted:
            identity = (item.envelope.source, item.envelope.id)
            if identity in new:  # the same event twice within a batch counts once
                new.discard(identity)
                fresh.append(item)
        for kind, run in groupby(fresh, key=lambda item: type(item.event)):
            events = list(run)
            with _span(consumer, kind, events):
                await handlers[kind](tx, events)
            CONSUMED.labels(consumer, "handled").inc(len(events))

    async def replay_requested(self) -> None:
        """Handle the dead letters whose replay was asked for, with what is parked behind them, in order."""
        consumer = self.subscription.consumer
        async with self._db.unscoped() as tx:
            ids = await dead_letter.requested(tx, consumer)
        for letter_id in ids:
            await self._replay(letter_id)

    async def _replay(self, letter_id: int) -> None:
        """Replay the letters of one key; stop at the first that fails again."""
        while True:
            error: Exception | None = None
            async with self._db.unscoped() as tx:
                letter = await dead_letter.first_of_key(tx, letter_id)
                if letter is None:
                    return
                try:
                    async with tx.savepoint():
                        envelope, event = decode(list(letter.headers), letter.value)
                        await tx.set_tenants([envelope.tenantid])
                        await self._apply(tx, [Received(envelope, event)])
                except TRANSIENT:
                    raise
                except Exception as failed:
                    error = failed
                if error is not None:
                    await dead_letter.failed_again(tx, letter.id, letter_id, f"{type(error).__name__}: {error}")
                    return
                await dead_letter.resolve(tx, letter.id, "replayed")


def _delivery(record: "ConsumerRecord[bytes, bytes]") -> _Delivery:
    try:
        return _Delivery(record, Received(*decode(record.headers, record.value)))
    except UnknownEventType:
        return _Delivery(record, None)
    except DecodeError as error:
        return _Delivery(record, None, str(error))


@contextlib.contextmanager
def _span(consumer: str, kind: type[Event], events: Sequence[Received[Event]]) -> Any:
    """Continue the trace of the first event; link to those of the others."""
    contexts = [
        extract({"traceparent": item.envelope.traceparent}) for item in events[:100] if item.envelope.traceparent
    ]
    links = [trace.Link(trace.get_current_span(context).get_span_context()) for context in contexts[1:]]
    with tracer.start_as_current_span(
        f"{consumer} {kind.__name__}",
        context=contexts[0] if contexts else None,
        kind=trace.SpanKind.CONSUMER,
        links=links,
        attributes={"messaging.batch.message_count": len(events), "messaging.consumer.group.name": consumer},
    ):
        yield
