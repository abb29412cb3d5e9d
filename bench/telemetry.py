"""`python -m bench.telemetry`: what telemetry costs, off against 10 % of the requests traced, in turns on one stack.

Two parts. Requests go through the gateway to services that are started anew for each turn, with a collector or without;
a write is followed to its billing account, so that both relays and the consumer are in it. Then the event path alone,
in this process: publish, relay, and billing's own consumer, which publishes in answer.

The machine is shared by all of it, the collector too, so throughput says it all; the CPU of our processes is told as
well, because it also holds on a machine that others use meanwhile.
"""

import asyncio
import contextlib
import os
import platform
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import uvloop
from aiokafka import AIOKafkaProducer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.events.measures import connected, settings_of
from chassis import garbage
from chassis.clock import SystemClock
from chassis.ids import new_id
from chassis.messaging.consumer import ConsumerRunner
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.relay import Relay
from chassis.messaging.subscription import Handler, Received
from chassis.persistence.database import Database, Transaction
from chassis.security.scopes import scopes_of
from chassis.security.tokens import TokenIssuer, TokenVerifier
from chassis.security.vault import Vault
from chassis.service import Service
from chassis.telemetry import traces
from deploy.roles import SERVICES
from deploy.stack.processes import Child, free_port
from deploy.stack.stack import Stack, temporary
from dotmac_contracts import topics
from dotmac_contracts.customer import CustomerCreated
from dotmac_contracts.envelope import Envelope, encode
from services.billing.consumers import customers

RATIO = 0.1
GOAL = 0.15
PAIRS = ((False, True), (True, False), (False, True), (True, False))
"""Off and on in turns, neither always first, each held against its neighbour: there the machine is most alike."""
TURNS = tuple(on for pair in PAIRS for on in pair)
READS, WRITES, CONNECTIONS = 3_000, 1_500, 16
EVENTS = 10_000
console = Console(width=130)


@dataclass
class Cost:
    """Seconds of the clock, and of CPU, for each turn of one kind of work."""

    what: str
    count: int
    wall: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    cpu: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})

    def add(self, on: bool, wall: float, cpu: float) -> None:
        self.wall[on].append(wall)
        self.cpu[on].append(cpu)
        rate, micro = self.count / wall, cpu / self.count * 1e6
        console.print(f"[dim]{'on ' if on else 'off'}[/]  {self.what}: {rate:,.0f}/s, {micro:,.0f} µs of CPU each")

    def rate(self, on: bool) -> float:
        return self.count / statistics.median(self.wall[on])

    def micro(self, on: bool) -> float:
        return statistics.median(self.cpu[on]) / self.count * 1e6

    @property
    def loss(self) -> float:
        """The share of the throughput that telemetry takes: the median over the pairs."""
        return 1 - statistics.median(off / on for off, on in zip(self.wall[False], self.wall[True], strict=True))

    @property
    def more_cpu(self) -> float:
        """How much more CPU it takes, as a share: the median over the pairs."""
        return statistics.median(on / off for off, on in zip(self.cpu[False], self.cpu[True], strict=True)) - 1


def sink(port: int) -> None:
    """Take in spans as a collector would, and forget them."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return None

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


async def services_cpu(stack: Stack) -> float:
    """Return the seconds of CPU that gateway and services have used."""
    return sum(_cpu_of(child.pid) for child in stack.children.values() if child.pid)


def _cpu_of(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def restart(stack: Stack, settings: dict[str, str]) -> None:
    """Start gateway and services anew with these settings."""
    await asyncio.gather(*(child.stop() for child in stack.children.values()))
    stack.children.clear()
    stack.environment = {"RATE_LIMIT": "1000000/second", **settings}
    await asyncio.gather(*(stack.start_service(name) for name in (*SERVICES, "gateway")))


@contextlib.asynccontextmanager
async def client(stack: Stack, tenant: UUID) -> AsyncIterator[aiohttp.ClientSession]:
    token = TokenIssuer(stack.jwt_secret_key).issue("bench", tenant, scopes_of(("tenant_admin",)))
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(stack.gateway_url, connector=connector, headers=headers) as session:
        yield session


async def load(count: int, request: Callable[[], Awaitable[None]]) -> None:
    async def some() -> None:
        for _ in range(count // CONNECTIONS):
            await request()

    await asyncio.gather(*(some() for _ in range(CONNECTIONS)))


async def requests(stack: Stack, tenant: UUID, endpoint: str) -> list[Cost]:
    """Measure reads, and writes with all that follows from them."""
    reads, writes = Cost("read through the gateway", READS), Cost("write, to the effect in billing", WRITES)
    for on in TURNS:
        await restart(stack, {"OTLP_ENDPOINT": endpoint, "TRACE_RATIO": str(RATIO)} if on else {})
        async with client(stack, tenant) as session:

            async def accounts(session: aiohttp.ClientSession = session) -> int:
                async with session.get("/api/v1/billing-accounts/summary") as answer:
                    found: int = (await answer.json())["count"]
                    return found

            async def create(session: aiohttp.ClientSession = session) -> str:
                async with session.post("/api/v1/customers", json={"name": "Bench"}) as answer:
                    body = await answer.json()
                    assert answer.status == 201, body
                    return str(body["id"])

            async def write(create: Callable[[], Awaitable[str]] = create) -> None:
                await create()

            path = f"/api/v1/customers/{await create()}"

            async def read(session: aiohttp.ClientSession = session, path: str = path) -> None:
                async with session.get(path) as answer:
                    await answer.read()
                    assert answer.status == 200

            await load(20 * CONNECTIONS, read)  # plans and connections
            await load(5 * CONNECTIONS, write)
            for cost, request in ((reads, read), (writes, write)):
                before = await accounts()
                cpu, started = await services_cpu(stack), time.perf_counter()
                await load(cost.count, request)
                if cost is writes:
                    while await accounts() < before + cost.count // CONNECTIONS * CONNECTIONS:
                        await asyncio.sleep(0.02)
                cost.add(on, time.perf_counter() - started, await services_cpu(stack) - cpu)
    return [reads, writes]


def caused(tenant: UUID, number: int) -> tuple[CustomerCreated, Envelope]:
    """Return an event of a trace of its own, which is sampled for every tenth."""
    event = CustomerCreated(
        customer_id=new_id(), tenant_id=tenant, name="Bench", status="active", paperless_billing=True
    )
    flags = "01" if number % round(1 / RATIO) == 0 else "00"
    envelope = Envelope(
        id=new_id(),
        source="/bench",
        type=event.TYPE,
        time=datetime.now(UTC),
        partitionkey=event.key,
        tenantid=tenant,
        aggregateversion=1,
        traceparent=f"00-{new_id().int:032x}-{new_id().int & 0xFFFFFFFFFFFFFFFF:016x}-{flags}",
    )
    return event, envelope


@contextlib.contextmanager
def measured(cost: Cost, on: bool) -> Any:
    cpu, started = time.process_time(), time.perf_counter()
    yield
    cost.add(on, time.perf_counter() - started, time.process_time() - cpu)


async def events(stack: Stack, tenant: UUID, endpoint: str) -> list[Cost]:
    """Measure the parts of the event path in this process; the services are stopped."""
    published = Cost("event published, caused by another", EVENTS)
    relayed, consumed = Cost("event relayed", EVENTS), Cost("event consumed, with effect and answer", EVENTS)
    made = [caused(tenant, number) for number in range(EVENTS)]
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka, acks="all") as producer:
        for event, envelope in made:
            record = encode(event, envelope)
            await producer.send(record.topic, record.value, record.key, headers=record.headers)
    garbage.settle()  # as a service does
    owner = await asyncpg.connect(stack.database_url("billing", "owner"))
    watch = await asyncpg.connect(stack.database_url("billing", "relay"))
    try:
        for on in TURNS:
            traces.configure("bench", endpoint if on else None, RATIO)
            await owner.execute("truncate outbox, inbox, billing_account cascade")
            async with (
                connected(stack.database_url("billing", "api")) as writers,
                connected(stack.database_url("billing", "consumer")) as database,
            ):
                with measured(published, on):
                    for start in range(0, EVENTS, 1000):
                        async with writers.for_tenant(tenant) as tx:
                            answers = [Outgoing(event, 1, cause) for event, cause in made[start : start + 1000]]
                            await publish(tx, answers, source="/bench", clock=SystemClock())
                with measured(relayed, on):
                    relaying = asyncio.create_task(Relay(settings_of(stack), "billing").run())
                    while await watch.fetchval("select exists (select from outbox)"):
                        await asyncio.sleep(0.01)
                relaying.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await relaying
                await consume(stack, database, consumed, on)
    finally:
        traces.configure("bench", None, RATIO)
        await owner.close()
        await watch.close()
    return [published, relayed, consumed]


async def consume(stack: Stack, database: Database, cost: Cost, on: bool) -> None:
    """Let billing's own subscription handle the events, as a consumer group that has seen none."""
    settings = settings_of(stack)
    service = Service(
        "billing", settings, database, database, SystemClock(), TokenVerifier(settings.jwks_url), Vault("bench" * 8)
    )
    subscription = customers.subscription(service)
    handled, first = 0, asyncio.Event()
    done = asyncio.Event()

    def counting(handler: Handler) -> Handler:
        async def counted(tx: Transaction, received: Sequence[Received[Any]]) -> None:
            first.set()
            await handler(tx, received)

            def committed() -> None:
                nonlocal handled
                handled += len(received)
                if handled >= cost.count:
                    done.set()

            tx.after_commit(committed)

        return counted

    handlers = {kind: counting(handler) for kind, handler in subscription.handlers.items()}
    bench = replace(subscription, consumer=f"bench-{new_id()}", topics=[topics.CUSTOMER], handlers=handlers)
    runner = ConsumerRunner(settings, database, [bench])
    await runner.start()
    await first.wait()
    with measured(cost, on):
        await done.wait()
    await runner.stop()


async def main() -> None:
    port = free_port()
    async with temporary("bench", partial(Stack, any_ports=True, say=console.print)) as stack:
        collector = Child(
            "sink", [sys.executable, "-m", "bench.telemetry", str(port)], os.environ, stack.folder / "sink.log"
        )
        await collector.start()
        try:
            tenant = new_id()
            async with (
                connected(stack.database_url("billing", "consumer")) as database,
                database.for_tenants([tenant]) as tx,
            ):
                await tx.execute(
                    "insert into workspace (tenant_id, deployment_id, currency, time_zone)"
                    " values ($1, $1, 'USD', 'UTC')",
                    tenant,
                )
            endpoint = f"http://127.0.0.1:{port}"
            costs = await requests(stack, tenant, endpoint)
            await asyncio.gather(*(child.stop() for child in stack.children.values()))
            costs += await events(stack, tenant, endpoint)
        finally:
            await collector.stop()
    report(costs)


def report(costs: Sequence[Cost]) -> None:
    table = Table(
        "what", "off", f"{RATIO:.0%} traced", "loss", "goal", "CPU each, off", "traced", "more", box=SIMPLE_HEAD
    )
    for cost in costs:
        table.add_row(
            cost.what,
            f"{cost.rate(False):,.0f}/s",
            f"{cost.rate(True):,.0f}/s",
            f"{cost.loss:.1%}",
            f"≤ {GOAL:.0%}" + ("" if cost.loss <= GOAL else ", missed"),
            f"{cost.micro(False):,.0f} µs",
            f"{cost.micro(True):,.0f} µs",
            f"{cost.more_cpu:.1%}",
        )
    console.print(table)
    machine = f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}"
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, medians of {len(PAIRS)} pairs of turns; {machine}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sink(int(sys.argv[1]))
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
