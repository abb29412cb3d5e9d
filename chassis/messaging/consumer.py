"""The consumers: batches of a partition, ids and effects in one transaction, then the offset (law 3)."""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker

from chassis.messaging import dead_letter, inbox, metrics, watch
from chassis.messaging.audience import Audience
from chassis.messaging.positions import positions
from chassis.messaging.security import broker_security
from chassis.messaging.spans import handling
from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Database, Transaction
from chassis.settings import Settings
from chassis.telemetry import busy
from dotmac_contracts.envelope import EVENTS, DecodeError, Event, UnknownEventType, decode

log = structlog.get_logger()

INBOX_RETENTION_DAYS = 14
"""As long as a topic and a replay of the journal reach back together, so that one is always recognised."""

_BATCH = 3000
_TOGETHER = 300
"""So many records of several partitions share a transaction, which costs more than they do; more go side by side."""
_IDLE_MS = 200
_HEARTBEAT_MS = 500
_METADATA_MS = 10_000
_LONGEST_BACKOFF_SECONDS = 15.0
_CLEAN_SECONDS = 3600.0
_OFFSETS_SECONDS = 0.1
_POSITIONS_SECONDS = 5.0

TRANSIENT = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    aiohttp.ClientError,
    OSError,
    TimeoutError,
)
"""What may be well again without anybody's doing. All else is permanent."""


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A record as it came: decoded, or with the reason why it can't be."""

    record: "ConsumerRecord[bytes, bytes]"
    received: Received[Event] | None
    reason: str | None = None


class ConsumerRunner:
    """Runs every subscription of a service until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        subscriptions: Sequence[Subscription],
        audience: Audience | None = None,
    ) -> None:
        """`audience`: whose events they take; everybody's without one."""
        self._settings = settings
        self._db = db
        self._audience = audience
        self._loops = [PartitionLoop(subscription, db, audience) for subscription in subscriptions]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin; a broker that is away is waited for."""
        self._tasks = [
            asyncio.create_task(self._run(loop), name=f"consumer-{loop.subscription.consumer}") for loop in self._loops
        ]
        if self._loops:
            self._tasks.append(asyncio.create_task(self._keep_house(), name="inbox"))
            consumers = [loop.subscription.consumer for loop in self._loops]
            self._tasks.append(asyncio.create_task(watch.dead_letters(self._db, consumers), name="dead-letters"))

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
            broker = KafkaBroker(
                self._settings.kafka_bootstrap_servers,
                security=broker_security(self._settings),
                # A topic that was made anew, or has more partitions, is found within this time.
                metadata_max_age_ms=_METADATA_MS,
                logger=None,
            )
            # Without a handler: FastStream keeps connection and lifecycle, the loop below loses no record.
            subscriber = broker.subscriber(
                *(topic.name for topic in loop.subscription.topics),
                group_id=self._group(loop.subscription.consumer),
                batch=True,
                ack_policy=AckPolicy.MANUAL,
                auto_offset_reset="earliest",
                # Those that stay learn of one that came or left within this time, of one that died within the other.
                heartbeat_interval_ms=_HEARTBEAT_MS,
                session_timeout_ms=round(self._settings.kafka_session_seconds * 1000),
                title=loop.subscription.consumer,
            )
            try:
                await broker.start()
                consumer = subscriber.consumer
                assert consumer is not None
                topics = [topic.name for topic in loop.subscription.topics]
                measuring = asyncio.create_task(watch.lag(consumer, loop.subscription.consumer, topics))
                try:
                    await loop.follow(consumer)
                finally:
                    measuring.cancel()
            except (KafkaError, *TRANSIENT) as error:
                log.warning("consumer_lost_connection", consumer=loop.subscription.consumer, error=repr(error))
            except Exception:
                log.exception("consumer_failed", consumer=loop.subscription.consumer)
            finally:
                loop.connected = False
                with contextlib.suppress(Exception):
                    await broker.stop()
            await asyncio.sleep(1.0)

    def _group(self, consumer: str) -> str:
        return consumer if self._audience is None else self._audience.group(consumer)

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
                        # Of every tenant: row-level security shows this role keys that are a day old.
                        await tx.execute("delete from idempotency_key where created_at < now() - interval '1 day'")
                    cleaned = time.monotonic()
            except TRANSIENT as error:
                log.warning("inbox_housekeeping_failed", error=repr(error))
            await asyncio.sleep(1.0)


class PartitionLoop:
    """Works on the partitions of one subscription; a partition that fails waits, the others go on."""

    def __init__(self, subscription: Subscription, db: Database, audience: Audience | None = None) -> None:
        self.subscription = subscription
        self._db = db
        self._audience = audience
        self._retry_at: dict[TopicPartition, float] = {}
        self._failures: dict[TopicPartition, int] = {}
        self._done: dict[TopicPartition, int] = {}
        self._advanced = asyncio.Event()
        self.connected = False
        metrics.POSTPONED.labels(subscription.consumer)  # known beforehand, so that the first one is an increase

    async def follow(self, consumer: "AIOKafkaConsumer[bytes, bytes]") -> None:
        """Read and handle until the connection is lost or the task is cancelled."""
        self._retry_at.clear()
        self._failures.clear()
        self._done.clear()
        self.connected = True
        beside = [
            asyncio.create_task(self._commit_offsets(consumer), name="offsets"),
            asyncio.create_task(_begin_anew_where_lost(consumer), name="positions"),
        ]
        try:
            while True:
                self._resume(consumer)
                batches = await consumer.getmany(timeout_ms=_IDLE_MS, max_records=_BATCH)
                if len(batches) > 1 and await self._took_together(batches):
                    continue
                # Partitions side by side: while the database works for one, another is decoded.
                async with asyncio.TaskGroup() as group:
                    for partition, records in batches.items():
                        group.create_task(self._take(consumer, partition, records))
        finally:
            for task in beside:
                task.cancel()
            await self._commit_done(consumer)

    async def _commit_offsets(self, consumer: "AIOKafkaConsumer[bytes, bytes]") -> None:
        """Tell the broker how far the database is; beside the work, which does not wait for the broker's answer."""
        while True:
            await self._advanced.wait()
            self._advanced.clear()
            await self._commit_done(consumer)
            await asyncio.sleep(_OFFSETS_SECONDS)  # the broker need not be told of each of many small steps

    async def _commit_done(self, consumer: "AIOKafkaConsumer[bytes, bytes]") -> None:
        done, self._done = self._done, {}
        if done:
            # Lost to a rebalance, the commit fails, and the inbox recognises what comes again elsewhere.
            with contextlib.suppress(KafkaError):
                await consumer.commit(done)

    def _resume(self, consumer: "AIOKafkaConsumer[bytes, bytes]") -> None:
        now = time.monotonic()
        for partition in [partition for partition, at in self._retry_at.items() if at <= now]:
            del self._retry_at[partition]
            if partition in consumer.assignment():
                consumer.resume(partition)

    def _delivery(self, record: "ConsumerRecord[bytes, bytes]") -> _Delivery:
        audience = self._audience
        if audience is not None and not audience.includes(record.headers, of_instances=self.subscription.of_instances):
            return _Delivery(record, None)
        try:
            received = Received(*decode(record.headers, record.value))
        except UnknownEventType:
            return _Delivery(record, None)
        except DecodeError as error:
            return _Delivery(record, None, str(error))
        return _Delivery(record, received if audience is None or audience.is_asked(received.event) else None)

    async def _took_together(self, batches: "Mapping[TopicPartition, Sequence[ConsumerRecord[bytes, bytes]]]") -> bool:
        """Handle a few records of several partitions in one transaction; False if they must be taken apart."""
        if sum(map(len, batches.values())) > _TOGETHER:
            return False
        deliveries = [self._delivery(record) for records in batches.values() for record in records]
        if not _readable(deliveries):
            return False
        try:
            with busy.CONSUMER:
                await self._commit(deliveries)
        except Exception as error:  # whose fault it is, partition by partition will tell
            log.info("partitions_taken_apart", consumer=self.subscription.consumer, error=repr(error))
            return False
        for partition, records in batches.items():
            self._failures.pop(partition, None)
            self._done[partition] = records[-1].offset + 1
        self._advanced.set()
        return True

    async def _take(
        self,
        consumer: "AIOKafkaConsumer[bytes, bytes]",
        partition: TopicPartition,
        records: "Sequence[ConsumerRecord[bytes, bytes]]",
    ) -> None:
        done = records[0].offset
        try:
            with busy.CONSUMER:
                async for offset in self.handle(records):
                    done = offset
            self._failures.pop(partition, None)
        except TRANSIENT as error:
            metrics.POSTPONED.labels(self.subscription.consumer).inc()
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
            self._done[partition] = done
            self._advanced.set()

    async def handle(self, records: "Sequence[ConsumerRecord[bytes, bytes]]") -> Any:
        """Handle records of one partition; yield the offset to commit after each database commit."""
        deliveries = [self._delivery(record) for record in records]
        try:
            if _readable(deliveries):
                await self._commit(deliveries)
                yield records[-1].offset + 1
                return
        except TRANSIENT:
            if len(deliveries) == 1:
                raise
        except Exception as error:
            log.warning("batch_failed", consumer=self.subscription.consumer, error=repr(error))
        for delivery in deliveries:
            await self._one(delivery)
            yield delivery.record.offset + 1

    async def _one(self, delivery: _Delivery) -> None:
        if delivery.reason is None:
            try:
                await self._commit([delivery])
                return
            except TRANSIENT:
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                log.error("event_refused", consumer=self.subscription.consumer, reason=reason, exc_info=error)
        else:
            reason = delivery.reason
        async with self._db.unscoped() as tx:
            await self._bury(tx, delivery.record, reason, parked=False)

    async def _commit(self, deliveries: Sequence[_Delivery]) -> None:
        """Record and handle deliveries that could be read, in one transaction."""
        consumer, handlers = self.subscription.consumer, self.subscription.handlers
        wanted = [
            (item.record, item.received)
            for item in deliveries
            if item.received and type(item.received.event) in handlers
        ]
        if not wanted:
            return
        async with self._db.for_tenants({received.envelope.tenantid for _, received in wanted}) as tx:
            recorded = await inbox.record(
                tx,
                consumer,
                [inbox.Arrival(received.envelope, record.topic, record.key) for record, received in wanted],
            )
            free: list[Received[Event]] = []
            for record, received in wanted:
                if (record.topic, record.key) in recorded.blocked:
                    await self._bury(tx, record, "waits behind a dead letter of its key", parked=True)
                else:
                    free.append(received)
            await self._handle_new(tx, free, recorded.new)

    async def _bury(
        self, tx: Transaction, record: "ConsumerRecord[bytes, bytes]", reason: str, *, parked: bool
    ) -> None:
        consumer = self.subscription.consumer
        await dead_letter.add(tx, consumer, record, reason, parked)
        outcome = "parked" if parked else "dead"
        tx.after_commit(metrics.CONSUMED.labels(consumer, _event_label(record), outcome).inc)

    async def _handle_new(
        self, tx: Transaction, received: Sequence[Received[Event]], new: set[tuple[str, UUID]]
    ) -> None:
        """Handle those that the inbox did not know, run by run of one type."""
        consumer = self.subscription.consumer
        fresh: list[Received[Event]] = []
        for item in received:
            identity = (item.envelope.source, item.envelope.id)
            if identity in new:  # the same event twice within a batch counts once
                new.discard(identity)
                fresh.append(item)
            else:
                tx.after_commit(metrics.CONSUMED.labels(consumer, metrics.label(type(item.event)), "duplicate").inc)
        for kind, run in groupby(fresh, key=lambda item: type(item.event)):
            events = list(run)
            with handling(tx, consumer, kind, events) as observed:
                await self.subscription.handlers[kind](tx, observed)

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
                        await self._handle_again(tx, Received(envelope, event))
                except TRANSIENT:
                    raise
                except Exception as failed:
                    error = failed
                if error is not None:
                    await dead_letter.failed_again(tx, letter.id, letter_id, f"{type(error).__name__}: {error}")
                    return
                await dead_letter.resolve(tx, letter.id, "replayed")

    async def _handle_again(self, tx: Transaction, received: Received[Event]) -> None:
        """Handle a dead letter's event, unless it was handled when it came another time or nobody wants it now."""
        if type(received.event) in self.subscription.handlers:
            recorded = await inbox.record(tx, self.subscription.consumer, [inbox.Arrival(received.envelope)])
            await self._handle_new(tx, [received], recorded.new)


async def _begin_anew_where_lost(consumer: "AIOKafkaConsumer[bytes, bytes]") -> None:
    """Read what a broker that has lost its records was told since, until cancelled."""
    while True:
        await asyncio.sleep(_POSITIONS_SECONDS)
        with contextlib.suppress(KafkaError, TimeoutError):  # the broker is away, or a partition: the next time tells
            async with asyncio.timeout(_POSITIONS_SECONDS):
                await positions(consumer)


def _readable(deliveries: Sequence[_Delivery]) -> bool:
    return all(item.reason is None for item in deliveries)


def _event_label(record: "ConsumerRecord[bytes, bytes]") -> str:
    """Return the type that a record says it has, if there is one of that name, for a metric."""
    named = dict(record.headers).get("ce_type") or b""
    kind = EVENTS.get(named.decode(errors="replace"))
    return metrics.label(kind) if kind else metrics.UNREADABLE
