"""Other ways from an outbox to Kafka, on the same servers: rows locked one by one, the package faststream-outbox."""

import asyncio
import time
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer
from faststream.kafka import KafkaBroker
from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from bench.events.measures import connected, fill_outbox
from deploy.stack.stack import Stack
from dotmac_contracts import topics

COUNT = 3_000
_WORKERS = 4
_TOPIC = topics.BILLING_ACCOUNT.name
_QUEUE = "bench"


async def skip_locked(stack: Stack) -> float:
    """Return events/s of four workers that lock a row, send it, delete it and commit, and so give up order."""
    async with connected(stack.database_url("billing", "api")) as database:
        await fill_outbox(database, COUNT)
    pool = await asyncpg.create_pool(stack.database_url("billing", "owner"), min_size=_WORKERS, max_size=_WORKERS)
    async with (
        pool,
        AIOKafkaProducer(bootstrap_servers=stack.kafka, acks="all", enable_idempotence=True) as producer,
    ):
        started = time.perf_counter()
        async with asyncio.TaskGroup() as workers:
            for _ in range(_WORKERS):
                workers.create_task(_one_by_one(pool, producer))
        return COUNT / (time.perf_counter() - started)


async def _one_by_one(pool: "asyncpg.Pool[Any]", producer: AIOKafkaProducer) -> None:
    while True:
        async with pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(
                "select id, key, value from outbox order by id limit 1 for update skip locked"
            )
            if row is None:
                return
            await producer.send_and_wait(_TOPIC, row["value"], row["key"].encode())
            await connection.execute("delete from outbox where id = $1", row["id"])


async def faststream_outbox(stack: Stack) -> float:
    """Return events/s of faststream-outbox, relaying as its documentation says, with four workers and large batches."""
    url = stack.database_url("billing", "owner").replace("postgresql://", "postgresql+asyncpg://")
    metadata = MetaData()
    table = make_outbox_table(metadata, table_name="bench_outbox")
    engine = create_async_engine(url, pool_size=_WORKERS + 4)
    outbox, kafka = (
        OutboxBroker(engine, outbox_table=table, logger=None),
        KafkaBroker(stack.kafka, acks="all", logger=None),
    )
    publisher = kafka.publisher(_TOPIC)

    @publisher
    @outbox.subscriber(
        _QUEUE,
        max_workers=_WORKERS,
        fetch_batch_size=500,
        terminal_flush_batch_size=100,
        min_fetch_interval=0.001,
        max_fetch_interval=0.01,
    )
    async def relay(body: dict[str, Any]) -> dict[str, Any]:
        return body

    try:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.drop_all)
            await connection.run_sync(metadata.create_all)
            for number in range(COUNT):
                await outbox.publish({"number": number, "name": "Fiber"}, queue=_QUEUE, session=connection)
        await kafka.start()
        started = time.perf_counter()
        await outbox.start()
        async with asyncio.timeout(120), engine.connect() as watch:
            while await _left(watch):
                await asyncio.sleep(0.02)
        return COUNT / (time.perf_counter() - started)
    finally:
        await outbox.stop()
        await kafka.stop()
        await engine.dispose()


async def _left(connection: AsyncConnection) -> bool:
    found = (await connection.exec_driver_sql("select exists (select from bench_outbox)")).scalar_one()
    await connection.rollback()
    return bool(found)
