"""Drives the main job as a client would: register an ISP, deploy it, load its subscribers, bill them."""

import asyncio
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from chassis.money import Money
from cli.client import Client
from cli.mapping import Mapping, Subscriber, read_subscribers
from cli.timings import Meter

_CURRENCY = "USD"
_ORDERS_AT_ONCE = 1000
_PAYMENTS = 20
_PATIENCE_SECONDS = 300.0
_OUTSIDE = Path(__file__).resolve().parent.parent / "examples" / "count_events.py"


class DemoFailed(Exception):
    """A step did not end as it must."""


@dataclass
class Figures:
    """What the platform says of itself after the flow."""

    customers: int
    subscriptions: int
    invoices: int
    amount: Money


@dataclass
class Demo:
    """One run of the flow. `steps` holds the seconds each step took."""

    gateway: str
    kafka: str
    administrator: tuple[str, str]
    subscribers: Path
    mapping: Mapping
    console: Console
    meter: Meter = field(default_factory=Meter)
    steps: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Run the flow twice over the same tenant and check the figures after each pass."""
        rows = list(read_subscribers(self.subscribers, self.mapping, _CURRENCY))
        expected = _expected(rows)
        period = datetime.now(UTC).strftime("%Y-%m")
        with self._progress() as progress:
            async with Client(self.gateway, *self.administrator) as platform:
                tenant = await self._step(progress, "sign in and register a tenant", self._register(platform))
                await self._step(progress, "deploy it", self._deploy(platform, tenant["id"], progress))
                owner = await self._step(progress, "accept the invitation", self._accept(platform, tenant))
            async with owner as client, self._outside(tenant["id"]) as outside:
                for again in ("", " again"):
                    load = self._import(client, rows, progress)
                    await self._step(progress, f"import the customers{again}", load)
                    accounts = self._accounts(client, expected.customers, progress)
                    await self._step(progress, f"billing accounts opened{again}", accounts)
                    order = self._subscribe(client, rows, progress)
                    await self._step(progress, f"order the subscriptions{again}", order)
                    bill = self._bill(client, period, progress)
                    await self._step(progress, f"run billing for {period}{again}", bill)
                    if not again:
                        pay = self._pay(client, period)
                        await self._step(progress, f"take {_PAYMENTS} payments", pay)
                    found = await self._figures(client, period)
                    if found != expected:
                        raise DemoFailed(f"the platform says {found}, the file says {expected}")
                seen = await self._step(progress, "outside subscriber catches up", outside.reaches(expected))
        self._report(expected, seen)

    def _progress(self) -> Progress:
        columns = (
            TextColumn("{task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        return Progress(*columns, console=self.console)

    async def _step(self, progress: Progress, name: str, work: Awaitable[Any]) -> Any:
        started = await self.meter.begin()
        self._task = progress.add_task(name, total=None)
        result = await work
        self.steps[name] = (await self.meter.end(name, started)).seconds
        task = progress.tasks[self._task]
        total = task.total or 1
        progress.update(self._task, total=total, completed=total)
        return result

    async def _register(self, platform: Client) -> dict[str, Any]:
        mark = secrets.token_hex(4)
        tenant: dict[str, Any] = await platform.post(
            "/tenants",
            {
                "name": f"Demo ISP {mark}",
                "slug": f"demo-{mark}",
                "contact_email": f"admin@demo-{mark}.example",
                "plan": "standard",
                "currency": _CURRENCY,
                "country": "US",
                "time_zone": "America/Los_Angeles",
            },
        )
        return tenant

    async def _deploy(self, platform: Client, tenant_id: str, progress: Progress) -> None:
        accepted = await platform.post(f"/tenants/{tenant_id}/deployments", {})
        path = f"/deployments/{accepted['deployment_id']}"

        async def finished() -> bool:
            deployment = await platform.get(path)
            done = sum(step["status"] == "succeeded" for step in deployment["steps"])
            progress.update(self._task, completed=done, total=len(deployment["steps"]) or None)
            if deployment["status"] == "failed":
                raise DemoFailed(f"the deployment failed: {deployment['reason']}")
            return bool(deployment["status"] == "succeeded")

        await _until(finished, "the deployment to succeed")

        async def active() -> bool:
            return bool((await platform.get(f"/tenants/{tenant_id}"))["status"] == "active")

        await _until(active, "the tenant to become active")

    async def _accept(self, platform: Client, tenant: dict[str, Any]) -> Client:
        invitation = await platform.post(f"/tenants/{tenant['id']}/invitations", {})
        password = secrets.token_urlsafe(24)
        await platform.post("/auth/invitations/accept", {"token": invitation["token"], "password": password})
        return Client(self.gateway, invitation["email"], password, tenant["slug"])

    async def _import(self, client: Client, rows: list[Subscriber], progress: Progress) -> None:
        job = await client.call("POST", "/customers/imports", stream=_lines(rows), media_type="application/x-ndjson")

        async def finished() -> bool:
            state = await client.get(f"/customers/imports/{job['id']}")
            progress.update(self._task, completed=state["processed"], total=len(rows))
            if state["status"] == "failed" or state["rejected"]:
                raise DemoFailed(f"the import ended as {state}")
            return bool(state["status"] == "completed")

        await _until(finished, "the import to complete")

    async def _accounts(self, client: Client, count: int, progress: Progress) -> None:
        async def opened() -> bool:
            found = (await client.get("/billing-accounts/summary"))["count"]
            progress.update(self._task, completed=found, total=count)
            return bool(found >= count)

        await _until(opened, f"{count} billing accounts")

    async def _subscribe(self, client: Client, rows: list[Subscriber], progress: Progress) -> None:
        orders = [order for row in rows if (order := row.subscription())]
        progress.update(self._task, total=len(orders))
        for chunk in _chunks(orders, _ORDERS_AT_ONCE):
            answer = await client.post("/subscriptions/bulk", {"items": chunk})
            if answer["rejected"]:
                raise DemoFailed(f"subscriptions were rejected: {answer['rejected'][:3]}")
            progress.advance(self._task, len(chunk))

    async def _bill(self, client: Client, period: str, progress: Progress) -> None:
        run = await client.post("/billing-runs", {"period": period})

        async def finished() -> bool:
            state = await client.get(f"/billing-runs/{run['id']}")
            progress.update(self._task, completed=state["processed"])
            if state["status"] == "failed":
                raise DemoFailed(f"the billing run failed: {state}")
            return bool(state["status"] == "completed")

        await _until(finished, "the billing run to complete")

    async def _pay(self, client: Client, period: str) -> None:
        page = await client.get("/invoices", period=period, limit=str(_PAYMENTS))
        for invoice in page["items"]:
            await client.post(
                "/payments",
                {
                    "account_id": invoice["account_id"],
                    "amount": invoice["total"],
                    "method": "bank_transfer",
                    "reference": f"demo-{invoice['number']}",
                },
                **{"Idempotency-Key": f"demo-{invoice['id']}"},
            )

    async def _figures(self, client: Client, period: str) -> Figures:
        customers = await client.get("/customers/summary")
        subscriptions = await client.get("/subscriptions/summary")
        invoices = await client.get("/invoices/summary", period=period)
        return Figures(customers["total"], subscriptions["count"], invoices["count"], Money(**invoices["total"]))

    @contextlib.asynccontextmanager
    async def _outside(self, tenant_id: str) -> "AsyncIterator[Outside]":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(_OUTSIDE),
            tenant_id,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": self.kafka},
        )
        outside = Outside(process)
        try:
            yield outside
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    def _report(self, figures: Figures, seen: dict[str, Any]) -> None:
        table = Table("", "platform", "outside subscriber", title="The month in figures")
        table.add_row("customers", f"{figures.customers:,}", f"{seen['customers']:,}")
        table.add_row("subscriptions", f"{figures.subscriptions:,}", "")
        table.add_row("invoices", f"{figures.invoices:,}", f"{seen['invoices']:,}")
        table.add_row("amount invoiced", figures.amount.format(), Money(seen["amount_minor"], _CURRENCY).format())
        table.add_row("events seen", "", f"{seen['events']:,}")
        self.console.print(table)
        times = Table("step", "seconds", title="Time per step")
        for name, seconds in self.steps.items():
            times.add_row(name, f"{seconds:.2f}")
        self.console.print(times)


class Outside:
    """The outside subscriber: a process of its own that knows the contracts and Kafka, nothing else."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def reaches(self, figures: Figures) -> dict[str, Any]:
        """Return what it has seen once that is as much as the platform says."""
        seen: dict[str, Any] = {}
        wanted = (figures.customers, figures.invoices, figures.amount.amount_minor)
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                async for line in self._process.stdout:
                    seen = json.loads(line)
                    if (seen["customers"], seen["invoices"], seen["amount_minor"]) == wanted:
                        return seen
        except TimeoutError:
            pass
        raise DemoFailed(f"the outside subscriber saw {seen}, the platform says {figures}")


def _expected(rows: list[Subscriber]) -> Figures:
    prices = [row.price for row in rows if row.plan_code and row.price]
    return Figures(len(rows), len(prices), len(prices), sum(prices, Money.zero(_CURRENCY)))


def _chunks(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


async def _lines(rows: list[Subscriber]) -> AsyncIterator[bytes]:
    for chunk in _chunks(rows, 500):
        yield b"".join(orjson.dumps(row.customer) + b"\n" for row in chunk)


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not await condition():
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {_PATIENCE_SECONDS:.0f} s for {what}")
        await asyncio.sleep(0.1)
