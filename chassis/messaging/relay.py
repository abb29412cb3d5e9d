"""The relay: one leader per service database moves the outbox to Kafka and then to the journal, in order."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from chassis.messaging import broker, metrics, spans
from chassis.messaging.partitioning import partition_of
from chassis.persistence.database import LOST, OUTBOX_CHANNEL, close
from chassis.settings import Settings
from chassis.telemetry import busy, traces

log = structlog.get_logger()

JOURNAL_RETENTION_DAYS = 7
_LEADER_LOCK = 7_305_811_001
_BATCH = 2_000
_MOST_WAITING = 3 * _BATCH
_SHORTEST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0
_ROLL_SECONDS = 3600.0
_STAND_BY_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0
_START_SECONDS = 10.0
_GATHER_SECONDS = 0.02
_STEP_ASIDE = "step aside"

# Exactly what was not sent yet, never "id > n": one that commits late must go before what its aggregate says after it.
_READ = "select id, topic, key, headers, value from outbox where id <> all($2::bigint[]) order by id limit $1"
# Exactly the acknowledged ids, never "id <= n": a smaller id may commit later than a larger one. What lies between them
# is all that is looked at, however long the outbox is, and however much of what was moved is not vacuumed yet.
MOVE = """
with acknowledged as (
    select * from unnest($1::bigint[], $2::int[], $3::bigint[]) as a (id, partition, "offset")
), taken as (
    delete from outbox o using acknowledged a where o.id = a.id and o.id between $4 and $5
    returning o.id, o.event_id, o.topic, o.key, o.tenant_id, o.headers, o.value, a.partition, a."offset"
)
insert into journal (outbox_id, event_id, topic, key, tenant_id, headers, value, partition, "offset")
select * from taken
"""


Acknowledged = tuple[int, int, int]
"""An event that the broker has: its id in the outbox, its partition, its offset there."""


class Relay:
    """Runs until it is cancelled, and survives the loss of the database and of the broker."""

    def __init__(self, settings: Settings, service: str) -> None:
        self._settings = settings
        self._service = service
        self._wake = asyncio.Event()
        self.healthy = False
        """Whether it is connected to both the database and the broker."""
        self.is_leader = False
        self._unwanted = False
        """Whether another asked for the lead."""
        metrics.RELAY_LEADER.labels(service).set(0)

    async def run(self) -> None:
        """Lead, or stand by until the leader is gone."""
        backoff = 0.2
        while True:
            started = time.monotonic()
            try:
                await self._session()
            except (*LOST, KafkaError) as error:
                log.warning("relay_lost_connection", error=repr(error), retry_in_seconds=backoff)
            finally:
                self.healthy = self.is_leader = False
                metrics.RELAY_LEADER.labels(self._service).set(0)
            backoff = 0.2 if time.monotonic() - started > 10 else min(backoff * 2, 5.0)
            await asyncio.sleep(backoff)

    async def _session(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            # A connection of its own, not pooled: the leader's lock lives as long as the connection.
            connection = await self._connect(stack)
            mover = await self._connect(stack)
            await connection.add_listener(OUTBOX_CHANNEL, self._hear)
            producer = broker.producer(self._settings)
            stack.push_async_callback(_stop, producer)
            async with asyncio.timeout(_START_SECONDS):  # aiokafka waits without end for an id from a broker that died
                await producer.start()
            self.healthy = True
            while True:
                while not await connection.fetchval("select pg_try_advisory_lock($1)", _LEADER_LOCK):
                    await asyncio.sleep(_STAND_BY_SECONDS)
                self.is_leader, self._unwanted = True, False
                metrics.RELAY_LEADER.labels(self._service).set(1)
                log.info("relay_leads", service=self._service)
                await self._lead(connection, mover, producer)
                self.is_leader = False
                metrics.RELAY_LEADER.labels(self._service).set(0)
                await connection.execute("select pg_advisory_unlock($1)", _LEADER_LOCK)
                log.info("relay_steps_aside", service=self._service)
                await asyncio.sleep(_STAND_BY_SECONDS)

    def _hear(self, _connection: object, _pid: int, _channel: str, message: object) -> None:
        self._unwanted = self._unwanted or message == _STEP_ASIDE
        self._wake.set()

    async def _connect(self, stack: contextlib.AsyncExitStack) -> "asyncpg.Connection[Any]":
        connection = await asyncpg.connect(
            self._settings.relay_database_url,
            server_settings={
                "application_name": f"{self._service}-relay",
                # A move that the server's crash forgets is sent again: nothing is lost, and no flush waited for.
                "synchronous_commit": "off",
                # Planned with the ids that are not to be read again at hand, it looks each row up among them by a hash.
                "plan_cache_mode": "force_custom_plan",
            },
        )
        stack.push_async_callback(close, connection)
        return connection

    async def _lead(
        self, connection: "asyncpg.Connection[Any]", mover: "asyncpg.Connection[Any]", producer: AIOKafkaProducer
    ) -> None:
        """Send batch after batch, while those that were acknowledged are moved."""
        poll = _SHORTEST_POLL_SECONDS
        rolled = float("-inf")
        async with _Mover(mover) as moving:
            while not self._unwanted:
                now = time.monotonic()
                if now - rolled > _ROLL_SECONDS:
                    await _roll_journal(connection)
                    rolled = now
                self._wake.clear()
                with busy.RELAY:
                    rows = await connection.fetch(_READ, _BATCH, moving.ids)
                    started = time.perf_counter()
                    acknowledged, failure = await _pass_on(producer, rows)
                    await moving.add(acknowledged)
                if acknowledged:
                    metrics.RELAYED.labels(self._service).inc(len(acknowledged))
                    metrics.RELAY_BATCH_SECONDS.labels(self._service).observe(time.perf_counter() - started)
                if failure:
                    raise failure
                poll = _SHORTEST_POLL_SECONDS if rows else min(poll * 1.5, _LONGEST_POLL_SECONDS)
                if not rows:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(poll):
                            await self._wake.wait()


class _Mover:
    """Moves acknowledged events to the journal, many at a time, while others are sent.

    The end of its block waits until what was acknowledged is moved, so that it is not sent again.
    """

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self._connection = connection
        self._waiting: list[Acknowledged] = []
        self._moving: asyncio.Task[None] | None = None

    @property
    def ids(self) -> list[int]:
        """The events that were acknowledged and still stand in the outbox."""
        return [id_ for id_, _, _ in self._waiting]

    async def add(self, acknowledged: "Sequence[Acknowledged]") -> None:
        """Take events on; wait while there are too many, and raise what the database has raised."""
        self._waiting += acknowledged
        if self._moving and (self._moving.done() or len(self._waiting) > _MOST_WAITING):
            await self._moving
            self._moving = None
        if self._waiting and not self._moving:
            self._moving = asyncio.create_task(self._move(), name="journal")

    async def _move(self) -> None:
        while self._waiting:
            if len(self._waiting) < _BATCH:
                await asyncio.sleep(_GATHER_SECONDS)  # a move costs as much as many of its events
            events = self._waiting.copy()
            with busy.RELAY:
                ids, partitions, offsets = (list(column) for column in zip(*events, strict=True))
                await self._connection.execute(MOVE, ids, partitions, offsets, min(ids), max(ids))
            del self._waiting[: len(events)]

    async def __aenter__(self) -> "_Mover":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._moving:
            await asyncio.wait({self._moving}, timeout=_PATIENCE_SECONDS if kind else None)
            self._moving.cancel()
            (result,) = await asyncio.gather(self._moving, return_exceptions=True)
            if result and not kind:
                raise result


@dataclass(frozen=True, slots=True)
class _Batch:
    """Events of one partition that went to the broker in one piece: all or none of them are acknowledged."""

    topic: str
    partition: int
    ids: Sequence[int]
    traced: Sequence[tuple[int, Mapping[str, str]]]
    """Where in the batch an event of a sampled trace is, and its headers."""
    acknowledgement: "asyncio.Future[Any]"


async def _pass_on(
    producer: AIOKafkaProducer, rows: "Sequence[asyncpg.Record]"
) -> tuple[list[Acknowledged], BaseException | None]:
    """Send events; return the id, partition and offset of each that was acknowledged, and what went wrong."""
    if not rows:
        return [], None
    started_ns = time.time_ns()
    batches = await _send(producer, rows)
    results = await asyncio.gather(*(batch.acknowledgement for batch in batches), return_exceptions=True)
    broken: set[tuple[str, int]] = set()
    failure: BaseException | None = None
    acknowledged: list[Acknowledged] = []
    for batch, result in zip(batches, results, strict=True):
        place = (batch.topic, batch.partition)
        if isinstance(result, BaseException):
            failure = result
            broken.add(place)
        elif place not in broken:  # behind a failed one of its partition it is sent again, in order
            acknowledged += [(id_, batch.partition, result.offset + index) for index, id_ in enumerate(batch.ids)]
            for index, headers in batch.traced:
                spans.sent(headers, batch.topic, batch.partition, result.offset + index, started_ns)
    return acknowledged, failure


async def _send(producer: AIOKafkaProducer, rows: "Sequence[asyncpg.Record]") -> list[_Batch]:
    """Hand rows to the producer in their order, batch by batch: a future a batch, where `send` has one an event."""
    counts = {topic: len(await producer.partitions_for(topic)) for topic in {row["topic"] for row in rows}}
    places: dict[tuple[str, int], list[asyncpg.Record]] = {}
    for row in rows:
        topic, key = row["topic"], row["key"].encode()
        places.setdefault((topic, partition_of(key, counts[topic])), []).append(row)
    sent: list[_Batch] = []
    for (topic, partition), events in places.items():
        builder = producer.create_batch()
        ids: list[int] = []
        traced: list[tuple[int, Mapping[str, str]]] = []
        for row in events:
            named = orjson.loads(row["headers"])
            headers = [(name, value.encode()) for name, value in named.items()]
            record = {"timestamp": None, "key": row["key"].encode(), "value": row["value"], "headers": headers}
            if builder.append(**record) is None:  # it is full
                sent.append(await _submit(producer, builder, topic, partition, ids, traced))
                builder, ids, traced = producer.create_batch(), [], []
                builder.append(**record)
            if traces.sampled(named.get("traceparent")):
                traced.append((len(ids), named))
            ids.append(row["id"])
        sent.append(await _submit(producer, builder, topic, partition, ids, traced))
        await asyncio.sleep(0)  # whoever shares the process has its turn between partitions
    return sent


async def _submit(
    producer: AIOKafkaProducer,
    builder: Any,
    topic: str,
    partition: int,
    ids: Sequence[int],
    traced: Sequence[tuple[int, Mapping[str, str]]],
) -> _Batch:
    builder.close()
    return _Batch(topic, partition, ids, traced, await producer.send_batch(builder, topic, partition=partition))


async def _roll_journal(connection: "asyncpg.Connection[Any]") -> None:
    # Partitions are made two days ahead, so whoever reads the journal for long, as a backup does, is not waited for.
    with contextlib.suppress(asyncpg.LockNotAvailableError):
        async with connection.transaction():
            await connection.execute("set local lock_timeout = '1s'")
            await connection.execute("select roll_journal($1)", JOURNAL_RETENTION_DAYS)


@contextlib.asynccontextmanager
async def standing_in(url: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """Take the lead from a service's relays, which stand by until this ends; what they were sending is sent."""
    connection = await asyncpg.connect(url, server_settings={"application_name": "relay-stand-in"})
    try:
        while not await connection.fetchval("select pg_try_advisory_lock($1)", _LEADER_LOCK):
            await connection.execute(f"notify {OUTBOX_CHANNEL}, '{_STEP_ASIDE}'")
            await asyncio.sleep(_STAND_BY_SECONDS / 50)
        yield connection
    finally:
        await close(connection)


async def _stop(producer: AIOKafkaProducer) -> None:
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await producer.stop()
