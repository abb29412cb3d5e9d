"""What waits on the event path, measured every few seconds whether or not anything moves it."""

import asyncio
import contextlib
from collections.abc import Sequence

import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from chassis.messaging import metrics
from chassis.persistence.database import LOST, Database, close

log = structlog.get_logger()

_EVERY_SECONDS = 5.0
_MOST_COUNTED = 100_000
_OUTBOX = """
select (select count(*) from (select from outbox limit $1) as counted) as depth,
       coalesce((select extract(epoch from clock_timestamp() - created_at) from outbox order by id limit 1), 0)::float8
           as age,
       (select n_dead_tup from pg_stat_user_tables where relname = 'outbox') as dead_rows
"""
# A row that is sent is deleted, but an old snapshot, of whatever kind, keeps it: then vacuum can't remove it, and the
# relay reads past it again and again. The dead rows show that for every cause, and need no privilege to be seen.


async def outbox(relay_database_url: str, service: str) -> None:
    """Measure the outbox until cancelled, on a connection of its own: a relay that leads nowhere measures nothing."""
    while True:
        try:
            connection = await asyncpg.connect(
                relay_database_url, server_settings={"application_name": f"{service}-watch"}
            )
            try:
                while True:
                    row = await connection.fetchrow(_OUTBOX, _MOST_COUNTED)
                    assert row is not None
                    metrics.OUTBOX_DEPTH.labels(service).set(row["depth"])
                    metrics.OUTBOX_AGE.labels(service).set(max(0.0, row["age"]))
                    metrics.OUTBOX_DEAD_ROWS.labels(service).set(row["dead_rows"])
                    await asyncio.sleep(_EVERY_SECONDS)
            finally:
                await close(connection)
        except LOST as error:
            log.warning("outbox_not_measured", error=repr(error))
        await asyncio.sleep(_EVERY_SECONDS)


async def dead_letters(db: Database, consumers: Sequence[str]) -> None:
    """Count the open dead letters of these consumers until cancelled."""
    while True:
        try:
            async with db.unscoped() as tx:
                rows = await tx.fetch(
                    "select consumer, count(*) as open from dead_letter where resolved_at is null group by consumer"
                )
            found = {row["consumer"]: row["open"] for row in rows}
            for consumer in consumers:
                metrics.DEAD_LETTERS.labels(consumer).set(found.get(consumer, 0))
        except LOST as error:
            log.warning("dead_letters_not_counted", error=repr(error))
        await asyncio.sleep(_EVERY_SECONDS)


async def lag(kafka: "AIOKafkaConsumer[bytes, bytes]", consumer: str, topics: Sequence[str]) -> None:
    """Measure how far a consumer is behind in the partitions that it has, until cancelled."""
    while True:
        with contextlib.suppress(KafkaError):  # lost a partition meanwhile, or the broker: the next time tells
            behind = dict.fromkeys(topics, 0)
            for partition, events in (await _behind(kafka)).items():
                behind[partition.topic] += events
            for topic, events in behind.items():
                metrics.LAG.labels(consumer, topic).set(events)
        await asyncio.sleep(_EVERY_SECONDS)


async def _behind(kafka: "AIOKafkaConsumer[bytes, bytes]") -> dict[TopicPartition, int]:
    # By what is committed: the position is past events that were read and wait for the database.
    assigned = list(kafka.assignment())
    if not assigned:
        return {}
    ends, starts = await kafka.end_offsets(assigned), await kafka.beginning_offsets(assigned)
    done = await asyncio.gather(*(kafka.committed(partition) for partition in assigned))
    return {
        partition: max(0, ends[partition] - max(starts[partition], offset or 0))
        for partition, offset in zip(assigned, done, strict=True)
    }
