"""`python -m bench.events`: the path of an event, its peers, and how it grows. Loopback only; it stops by itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import asyncpg
import uvloop
from rich.console import Console

from bench.events import measures, peers
from bench.events.latency import latency
from bench.report import Report
from chassis import garbage
from chassis.clock import SystemClock
from chassis.ids import PLATFORM_TENANT
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Database, Transaction
from deploy.stack.stack import Stack, temporary
from dotmac_contracts.topics import BILLING_PLAN

_WRITES = 2_000
console = Console()


async def main() -> None:
    report = Report(console)
    async with temporary("bench", partial(Stack, any_ports=True, say=console.print)) as stack:
        for child in stack.children.values():
            await child.stop()
        garbage.settle()  # as a service does
        await _speed(stack, report)
        await _latency(stack, report)
        await _cost_of_a_write(stack, report)
        await _growth(stack, report)
    report.show()


async def _speed(stack: Stack, report: Report) -> None:
    relay = await measures.relay(stack)
    report.add(
        "relay", f"{relay.ours:,.0f}/s", f"bare producer {relay.peer:,.0f}", f"{relay.ours / relay.peer:.2f}",
        "≥ 0.7 and 30,000/s",
    )  # fmt: skip
    locked = await peers.skip_locked(stack)
    report.add("the same", f"{relay.ours:,.0f}/s", f"rows by skip locked {locked:,.0f}", f"{relay.ours / locked:.0f}")
    package = await peers.faststream_outbox(stack)
    report.add("the same", f"{relay.ours:,.0f}/s", f"faststream-outbox {package:,.0f}", f"{relay.ours / package:.0f}")
    consumer = await measures.consumer(stack)
    report.add(
        "consumer with effects", f"{consumer.ours:,.0f}/s", f"that only counts {consumer.peer:,.0f}",
        f"{consumer.ours / consumer.peer:.2f}", "≥ 30,000/s",
    )  # fmt: skip
    entries = await measures.audited(stack, measures.EVENTS)
    report.add("entries of the audit log", f"{entries:,.0f}/s", goal="≥ 20,000/s")


async def _latency(stack: Stack, report: Report) -> None:
    for rate in (100, 500, 2000):
        p50, p99 = await latency(stack, rate)
        goal = "4 / 15 ms" if rate == 500 else ""
        report.add(f"commit to effect at {rate}/s, p50 / p99", f"{p50:.1f} / {p99:.1f} ms", goal=goal)


async def _cost_of_a_write(stack: Stack, report: Report) -> None:
    """A write of a row, one transaction after the other, with its event and without."""
    owner = await asyncpg.connect(stack.database_url("billing", "owner"))
    await owner.execute("create table bench_write (id bigint generated always as identity, name text)")
    await owner.execute("grant insert on bench_write to billing_api")
    await owner.close()

    async def bare(tx: Transaction) -> None:
        await tx.execute("insert into bench_write (name) values ('Fiber')")

    async def told(tx: Transaction) -> None:
        await bare(tx)
        await publish(tx, [Outgoing(measures.event(), 1)], source="/bench", clock=SystemClock())

    async with measures.connected(stack.database_url("billing", "api")) as database:
        plain, with_event = await _each(database, bare), await _each(database, told)
    report.add("a write with its event", f"{with_event:.2f} ms", f"without {plain:.2f} ms", f"{with_event / plain:.2f}")


async def _each(database: Database, write: Callable[[Transaction], Awaitable[None]]) -> float:
    started = time.perf_counter()
    for _ in range(_WRITES):
        async with database.for_tenant(PLATFORM_TENANT) as tx:
            await write(tx)
    return (time.perf_counter() - started) / _WRITES * 1000


async def _growth(stack: Stack, report: Report) -> None:
    for times in (1, 2, 4):
        rate = await measures.relayed(stack, times * measures.EVENTS)
        report.add(f"relay with {times} times the events", f"{rate:,.0f}/s")
    for tenants in (1, 10, 40):
        rate = await measures.relayed(stack, measures.EVENTS, tenants)
        report.add(f"relay, events of {tenants} tenants", f"{rate:,.0f}/s")
    for partitions in (12, 24):
        await measures.repartition(stack, partitions)
        rate = await measures.relayed(stack, measures.EVENTS)
        report.add(f"relay, {partitions} partitions instead of {BILLING_PLAN.partitions}", f"{rate:,.0f}/s")
    count = await measures.waiting(stack)
    seconds = count / await measures.consumed(stack, count)
    report.add(f"a consumer that is {count:,} events behind catches up in", f"{seconds:.1f} s")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
