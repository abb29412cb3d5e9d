"""`python -m bench`: starts a stack of its own and measures it. Loopback only, bounded, and it stops by itself."""

import asyncio
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import asyncpg
from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.table import Table

from chassis.clock import SystemClock
from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Database
from chassis.security.scopes import scopes_of
from chassis.security.tokens import TokenIssuer
from cli.demo import Demo
from cli.generator import generate
from cli.mapping import read_mapping
from deploy.stack.stack import Stack
from dotmac_contracts import topics
from dotmac_contracts.billing import PlanChanged
from dotmac_contracts.money import Money

EVENTS = 20_000
SUBSCRIBERS = 10_000
REQUESTS = 2_000
MAPPING = Path(__file__).resolve().parent.parent / "examples" / "telco-subscribers.mapping.yaml"
console = Console()


async def relay(stack: Stack) -> tuple[float, float]:
    """Return events/s of the relay, journal included, and of a bare producer that sends the same bytes."""
    database = Database(stack.database_url("billing", "api"), pool_size=2)
    await database.connect()
    watch = await asyncpg.connect(stack.database_url("billing", "relay"))
    producer = AIOKafkaProducer(
        bootstrap_servers=stack.kafka, acks="all", enable_idempotence=True, max_batch_size=256 * 1024
    )
    await producer.start()
    try:
        price = Money(amount_minor=1, currency="USD")
        await watch.execute("select pg_advisory_unlock_all()")
        started = time.perf_counter()
        for _ in range(EVENTS // 1000):
            plans = (new_id() for _ in range(1000))
            batch = [
                Outgoing(PlanChanged(plan_id=plan, tenant_id=PLATFORM_TENANT, code="B", name="B", price=price), 1)
                for plan in plans
            ]
            async with database.for_tenant(PLATFORM_TENANT) as tx:
                await publish(tx, batch, source="/bench", clock=SystemClock())
        while await watch.fetchval("select exists (select from outbox)"):
            await asyncio.sleep(0.01)
        relayed = EVENTS / (time.perf_counter() - started)
        rows = await watch.fetch(
            "select key, value from journal where tenant_id = $1 limit $2", PLATFORM_TENANT, EVENTS
        )
        headers = [("ce_id", b"0" * 36), ("ce_type", b"dotmac.billing.PlanChanged"), ("ce_source", b"/bench")]
        started = time.perf_counter()
        sent = [
            await producer.send(topics.BILLING_PLAN.name, row["value"], row["key"].encode(), headers=headers)
            for row in rows
        ]
        await asyncio.gather(*sent)
        return relayed, len(rows) / (time.perf_counter() - started)
    finally:
        await producer.stop()
        await watch.close()
        await database.close()


async def gateway(stack: Stack) -> tuple[float, float, float, float]:
    """Return requests/s and the median milliseconds, through the gateway and direct."""
    token = TokenIssuer(stack.jwt_secret_key).issue("bench", PLATFORM_TENANT, scopes_of(("tenant_admin",)))
    figures: list[float] = []
    connector = aiohttp.TCPConnector(limit=16)
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        for base in (stack.gateway_url, stack.url("customer")):
            times: list[float] = []

            async def ask(base: str = base, times: list[float] = times) -> None:
                for _ in range(REQUESTS // 16):
                    started = time.perf_counter()
                    async with session.get(f"{base}/api/v1/customers/summary") as answer:
                        await answer.read()
                        assert answer.status == 200
                    times.append(time.perf_counter() - started)

            started = time.perf_counter()
            await asyncio.gather(*(ask() for _ in range(16)))
            figures += [len(times) / (time.perf_counter() - started), statistics.median(times) * 1000]
    return figures[0], figures[1], figures[2], figures[3]


async def flow(stack: Stack, folder: Path) -> Demo:
    """Return the demo's times over a larger file."""
    file = folder / "subscribers.csv"
    generate(file, SUBSCRIBERS)
    demo = Demo(stack.gateway_url, stack.kafka, stack.administrator, file, read_mapping(MAPPING), Console(quiet=True))
    await demo.run()
    return demo


def memory_mib(pid: int) -> float:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0


async def timed(work: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


async def main() -> None:
    table = Table("what", "figure", "peer", "ratio", title=f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="dotmac-bench-") as folder:
        stack = Stack(Path(folder), any_ports=True, say=console.print, environment={"RATE_LIMIT": "1000000/second"})
        seconds = await timed(stack.start)
        try:
            table.add_row("start of the stack", f"{seconds:.1f} s", "", "")
            relayed, bare = await relay(stack)
            table.add_row(
                "relay with journal", f"{relayed:,.0f} events/s", f"bare producer {bare:,.0f}", f"{relayed / bare:.2f}"
            )
            rate, median, direct, direct_median = await gateway(stack)
            table.add_row("gateway", f"{rate:,.0f} requests/s", f"direct {direct:,.0f}", f"{rate / direct:.2f}")
            table.add_row("gateway, median", f"{median:.2f} ms", f"direct {direct_median:.2f}", "")
            demo = await flow(stack, Path(folder))
            for name, count, unit in (("import the customers", SUBSCRIBERS, "rows"),):
                table.add_row(name, f"{count / demo.steps[name]:,.0f} {unit}/s with events", "", "")
            for name, child in stack.children.items():
                if child.pid:
                    table.add_row(f"memory of {name}", f"{memory_mib(child.pid):.0f} MiB", "", "")
        finally:
            await stack.stop()
            if stack._postgres:
                stack._postgres.remove()
    console.print(table)
    console.print(f"{platform.platform()}, Python {platform.python_version()}")


if __name__ == "__main__":
    asyncio.run(main())
