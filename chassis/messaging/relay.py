"""The relay: one leader per service database moves the outbox to Kafka and then to the journal, in order."""

import asyncio
import contextlib
import time
from typing import Any

import asyncpg
import orjson
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from prometheus_client import Counter, Gauge

from chassis.persistence.database import OUTBOX_CHANNEL
from chassis.settings import Settings

log = structlog.get_logger()

PUBLISHED = Counter("dotmac_relay_published_total", "Events acknowledged by the broker.", ["service"])
DEPTH = Gauge("dotmac_outbox_depth", "Events that wait in the outbox.", ["service"])
AGE = Gauge("dotmac_outbox_age_seconds", "Age of the oldest event that waits.", ["service"])

JOURNAL_RETENTION_DAYS = 7
_LEADER_LOCK = 7_305_811_001
_BATCH = 2_000
_SHORTEST_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0
_MEASURE_SECONDS = 5.0
_ROLL_SECONDS = 3600.0

_READ = "select id, topic, key, headers, value from outbox order by id limit $1"
# Exactly the acknowledged ids, never "id <= n": a smaller id may commit later than a larger one.
_MOVE = """
with acknowledged as (
    select * from unnest($1::bigint[], $2::int[], $3::bigint[]) as a (id, partition, "offset")
), taken as (
    delete from outbox o using acknowledged a where o.id = a.id
    returning o.id, o.event_id, o.topic, o.key, o.tenant_id, o.headers, o.value, a.partition, a."offset"
)
insert into journal (outbox_id, event_id, topic, key, tenant_id, headers, value, partition, "offset")
select * from taken
"""


class Relay:
    """Runs until it is cancelled, and survives the loss of the database and of the broker."""

    def __init__(self, settings: Settings, service: str) -> None:
        self._settings = settings
        self._service = service
        self._wake = asyncio.Event()
        self.healthy = False
        """Whether it is connected to both the database and the broker."""
        self.is_leader = False

    async def run(self) -> None:
        """Lead, or stand by until the leader is gone."""
        backoff = 0.2
        while True:
            started = time.monotonic()
            try:
                await self._session()
            except (
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                KafkaError,
                OSError,
                TimeoutError,
            ) as error:
                log.warning("relay_lost_connection", error=repr(error), retry_in_seconds=backoff)
            finally:
                self.healthy = self.is_leader = False
            backoff = 0.2 if time.monotonic() - started > 10 else min(backoff * 2, 5.0)
            await asyncio.sleep(backoff)

    async def _session(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            # A connection of its own, not pooled: the leader's lock lives as long as the connection.
            connection = await asyncpg.connect(
                self._settings.relay_database_url,
                server_settings={"application_name": f"{self._service}-relay"},
            )
            stack.push_async_callback(_close, connection)
            await connection.add_listener(OUTBOX_CHANNEL, lambda *_: self._wake.set())
            producer = AIOKafkaProducer(
                bootstrap_servers=self._settings.kafka_bootstrap_servers,
                acks="all",
                enable_idempotence=self._settings.kafka_idempotence,
                max_batch_size=256 * 1024,
                request_timeout_ms=15_000,
            )
            stack.push_async_callback(producer.stop)
            await producer.start()
            self.healthy = True
            while not await connection.fetchval("select pg_try_advisory_lock($1)", _LEADER_LOCK):
                await asyncio.sleep(1.0)
            self.is_leader = True
            log.info("relay_leads", service=self._service)
            await self._lead(connection, producer)

    async def _lead(self, connection: "asyncpg.Connection[Any]", producer: AIOKafkaProducer) -> None:
        poll = _SHORTEST_POLL_SECONDS
        measured = rolled = float("-inf")
        while True:
            now = time.monotonic()
            if now - rolled > _ROLL_SECONDS:
                await connection.execute("select roll_journal($1)", JOURNAL_RETENTION_DAYS)
                rolled = now
            if now - measured > _MEASURE_SECONDS:
                await self._measure(connection)
                measured = now
            self._wake.clear()
            if await self._pass_on(connection, producer):
                poll = _SHORTEST_POLL_SECONDS
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll):
                    await self._wake.wait()
            poll = min(poll * 1.5, _LONGEST_POLL_SECONDS)

    async def _pass_on(self, connection: "asyncpg.Connection[Any]", producer: AIOKafkaProducer) -> int:
        """Send a batch and take the acknowledged events off; return how many those were."""
        rows = await connection.fetch(_READ, _BATCH)
        if not rows:
            return 0
        sent = [
            await producer.send(
                row["topic"],
                row["value"],
                row["key"].encode(),
                headers=[(name, value.encode()) for name, value in orjson.loads(row["headers"]).items()],
            )
            for row in rows
        ]
        results = await asyncio.gather(*sent, return_exceptions=True)
        failed_keys: set[tuple[str, str]] = set()
        failure: BaseException | None = None
        acknowledged: list[tuple[int, int, int]] = []
        for row, result in zip(rows, results, strict=True):
            key = (row["topic"], row["key"])
            if isinstance(result, BaseException):
                failure = result
                failed_keys.add(key)
            elif key not in failed_keys:  # behind a failed one of its key it is sent again, in order
                acknowledged.append((row["id"], result.partition, result.offset))
        if acknowledged:
            await connection.execute(_MOVE, *(list(column) for column in zip(*acknowledged, strict=True)))
            PUBLISHED.labels(self._service).inc(len(acknowledged))
        if failure:
            raise failure
        return len(acknowledged)

    async def _measure(self, connection: "asyncpg.Connection[Any]") -> None:
        row = await connection.fetchrow(
            "select count(*) as depth, coalesce(extract(epoch from now() - min(created_at)), 0)::float8 as age"
            " from outbox"
        )
        assert row is not None
        DEPTH.labels(self._service).set(row["depth"])
        AGE.labels(self._service).set(row["age"])


async def _close(connection: "asyncpg.Connection[Any]") -> None:
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        await connection.close(timeout=2)
