"""From the commit of a write to the commit of its effect elsewhere, in milliseconds.

Two processes, as two services are: this one runs the consumer, a child of it the writers and the relay. The child is
this module as a program, which writes and prints when each write was committed.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import asyncpg
import orjson
import structlog
import uvloop

from bench.events.measures import connected, event, relaying, settings_of, until
from chassis import garbage
from chassis.clock import SystemClock
from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging.consumer import ConsumerRunner
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Database, Transaction
from chassis.settings import Settings
from deploy.stack.stack import Stack
from dotmac_contracts import topics
from dotmac_contracts.billing import PlanChanged

_LONGEST_LINE = 16 * 1024 * 1024


async def latency(stack: Stack, per_second: int = 500, seconds: int = 10) -> tuple[float, float]:
    """Return p50 and p99."""
    applied: dict[str, float] = {}

    def effect(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
        applied.update(dict.fromkeys(str(payload).split(), time.perf_counter()))

    async def handle(tx: Transaction, received: Sequence[Received[PlanChanged]]) -> None:
        # A notification is delivered when the transaction has committed, and not before.
        for start in range(0, len(received), 200):
            plans = " ".join(str(item.event.plan_id) for item in received[start : start + 200])
            await tx.execute("select pg_notify('bench_effect', $1)", plans)

    listener = await asyncpg.connect(stack.database_url("billing", "consumer"))
    await listener.add_listener("bench_effect", effect)
    async with connected(stack.database_url("billing", "consumer")) as effects:
        group = f"bench-{new_id()}"
        subscription = Subscription(group, [topics.BILLING_PLAN], {PlanChanged: handle})
        runner = ConsumerRunner(settings_of(stack), effects, [subscription])
        await runner.start()
        program = [sys.executable, "-m", "bench.events.latency", str(per_second), str(seconds)]
        writing = await asyncio.create_subprocess_exec(
            *program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            env={
                "DATABASE_URL": stack.database_url("billing", "api"),
                "RELAY_DATABASE_URL": stack.database_url("billing", "relay"),
                "KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
            },
        )
        assert writing.stdin is not None and writing.stdout is not None
        first = (await writing.stdout.readline()).decode().strip()
        await until(lambda: first in applied)  # it has joined, and worked off what was there
        writing.stdin.write(b"\n")
        committed: dict[str, float] = orjson.loads(await writing.stdout.readline())
        await until(lambda: committed.keys() <= applied.keys())
        writing.stdin.close()
        await writing.wait()
        await runner.stop()
    await listener.close()
    percentiles = statistics.quantiles([applied[plan] - at for plan, at in committed.items()], n=100)
    return percentiles[49] * 1000, percentiles[98] * 1000


async def _write(writers: Database) -> str:
    written = event()
    async with writers.for_tenant(PLATFORM_TENANT) as tx:
        await publish(tx, [Outgoing(written, 1)], source="/bench", clock=SystemClock())
    return str(written.plan_id)


async def _produce(per_second: int, seconds: int) -> None:
    """Write once, print what; then, when told to, at a steady rate, and print when each was committed."""
    settings = Settings()
    committed: dict[str, float] = {}

    async def write() -> None:
        plan = await _write(writers)
        committed[plan] = time.perf_counter()  # counts from the same moment in every process

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    garbage.settle()  # as a service does
    async with relaying(settings), connected(settings.database_url) as writers:
        print(await _write(writers), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as load:
            for number in range(per_second * seconds):
                wait = begun + number / per_second - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                load.create_task(write())
        print(orjson.dumps(committed).decode(), flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # the relay goes on until all has arrived


if __name__ == "__main__":
    uvloop.run(_produce(*map(int, sys.argv[1:])))
