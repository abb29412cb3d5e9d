"""`python -m bench`: starts a stack of its own and measures it. Loopback only, bounded, and it stops by itself."""

import asyncio
import time
from functools import partial
from pathlib import Path

import uvloop
from rich.console import Console

from bench import bulk, requests
from bench.events import measures
from bench.events.latency import latency
from bench.report import Report
from chassis import garbage
from deploy.stack.stack import Stack, temporary

console = Console()


def memory_mib(pid: int) -> float:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0


async def main() -> None:
    report = Report(console)
    unlimited = dict.fromkeys(("RATE_LIMIT", "TENANT_RATE_LIMIT", "ADDRESS_RATE_LIMIT"), "1000000/second")
    started = time.perf_counter()
    async with temporary("bench", partial(Stack, any_ports=True, say=console.print, environment=unlimited)) as stack:
        report.add("start of the stack", f"{time.perf_counter() - started:.1f} s")
        for name, child in stack.children.items():
            if child.pid:
                report.add(f"memory of {name} at rest", f"{memory_mib(child.pid):.0f} MiB")
        await _requests(stack, report)
        await _bulk(stack, report)
        # From here on the event path has the machine to itself: its parts run in this process.
        await bulk.quiet(stack)
        for child in stack.children.values():
            await child.stop()
        garbage.settle()  # as a service does
        await _events(stack, report)
    report.show()


async def _requests(stack: Stack, report: Report) -> None:
    through, direct = await requests.measure(stack)
    ratio = f"{through.per_second / direct.per_second:.2f}"
    report.add(
        "requests through the gateway", f"{through.per_second:,.0f}/s", f"direct {direct.per_second:,.0f}/s", ratio
    )
    report.add("their median", f"{through.median_ms:.2f} ms", f"direct {direct.median_ms:.2f} ms")


async def _bulk(stack: Stack, report: Report) -> None:
    async with bulk.tenant(stack) as (client, tenant_id):
        _add(report, "rows imported, upload to end", await bulk.imported(stack, client, tenant_id))
        await bulk.subscribed(client)
        _add(report, "invoices issued, order to end", await bulk.invoiced(stack, client, tenant_id, "2026-02"))
    # The feed reads every event along, on the same two cores: the services' own rates are what the goals are about.
    await stack.children["integration"].stop()
    async with bulk.tenant(stack) as (client, tenant_id):
        imported = await bulk.imported(stack, client, tenant_id)
        _add(report, "rows imported without the feed", imported, "3,000/s")
        await bulk.subscribed(client)
        # The first month of a tenant finds tables that the database knows nothing of yet.
        for month, period in (("first", "2026-02"), ("second", "2026-03"), ("third", "2026-04")):
            invoiced = await bulk.invoiced(stack, client, tenant_id, period)
            _add(report, f"invoices issued without the feed, {month} month", invoiced, "15,000/s")


def _add(report: Report, what: str, rates: bulk.Rates, goal: str = "") -> None:
    report.add(what, f"{rates.ours:,.0f}/s", f"COPY {rates.copy:,.0f}", f"{rates.ours / rates.copy:.2f}", goal)


async def _events(stack: Stack, report: Report) -> None:
    relay = await measures.relay(stack)
    report.add(
        "relay", f"{relay.ours:,.0f} events/s", f"producer {relay.peer:,.0f}", f"{relay.ours / relay.peer:.2f}", "≥ 0.6"
    )
    consumer = await measures.consumer(stack)
    report.add(
        "consumer with effects", f"{consumer.ours:,.0f} events/s", f"counting {consumer.peer:,.0f}",
        f"{consumer.ours / consumer.peer:.2f}",
    )  # fmt: skip
    for rate in (100, 500):
        p50, p99 = await latency(stack, rate)
        goal = "5 / 25 ms" if rate == 500 else ""
        report.add(f"commit to effect at {rate} events/s, p50 / p99", f"{p50:.1f} / {p99:.1f} ms", goal=goal)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
