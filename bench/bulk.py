"""Bulk work through the API: rows imported and invoices issued a second, their events included, and a bare COPY."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from cli.client import Client
from deploy.stack.stack import Stack

ROWS = 20_000
_ORDERS_AT_ONCE = 1000


@dataclass(frozen=True)
class Rates:
    """Rows a second: ours with all that belongs to them, and those of a bare COPY of the same table's rows."""

    ours: float
    copy: float


@contextlib.asynccontextmanager
async def tenant(stack: Stack) -> AsyncIterator[tuple[Client, str]]:
    """Deploy a tenant, and give the API as its administrator, and its id."""
    marks = {"slug": f"bench-{secrets.token_hex(4)}", "contact_email": "admin@bench.example"}
    place = {"currency": "USD", "country": "US", "time_zone": "UTC"}
    async with Client(stack.gateway_url, *stack.administrator) as platform:
        made = await platform.post("/tenants", {"name": "Bench", "plan": "standard", **marks, **place})
        await platform.post(f"/tenants/{made['id']}/deployments", {})
        while (await platform.get(f"/tenants/{made['id']}"))["status"] != "active":
            await asyncio.sleep(0.05)
        invitation = await platform.post(f"/tenants/{made['id']}/invitations", {})
        password = secrets.token_urlsafe(24)
        await platform.post("/auth/invitations/accept", {"token": invitation["token"], "password": password})
    async with Client(stack.gateway_url, marks["contact_email"], password, marks["slug"]) as client:
        yield client, made["id"]


async def _rows() -> AsyncIterator[bytes]:
    for start in range(0, ROWS, 1000):
        yield b"".join(
            orjson.dumps(
                {
                    "external_reference": f"bench-{number}",
                    "name": f"Subscriber {number}",
                    "email": f"subscriber-{number}@example.com",
                    "city": "Los Angeles",
                    "postal_code": "90001",
                    "country": "US",
                    "payment_method": "bank_transfer",
                    "paperless_billing": True,
                }
            )
            + b"\n"
            for number in range(start, start + 1000)
        )


async def _followed(client: Client, path: str) -> Any:
    while True:
        state = await client.get(path)
        if state["status"] == "completed":
            return state
        await asyncio.sleep(0.05)


async def _copied(stack: Stack, service: str, table: str, tenant_id: str) -> float:
    """Return rows/s of a COPY of a tenant's rows into a table of the same shape without guards."""
    connection = await asyncpg.connect(stack.database_url(service, "owner"))
    try:
        generated = await connection.fetch(
            "select column_name from information_schema.columns where table_name = $1 and is_generated = 'NEVER'"
            " and table_schema = 'public' order by ordinal_position",
            table,
        )
        columns = [row["column_name"] for row in generated]
        source = await asyncpg.connect(stack.database_url(service, "consumer"))
        await source.execute(f"set app.tenant_ids = '{tenant_id}'")
        records = [tuple(row) for row in await source.fetch(f"select {', '.join(columns)} from {table}")]
        await source.close()
        await connection.execute(f"create table bench_{table} (like {table} including all)")
        started = time.perf_counter()
        await connection.copy_records_to_table(f"bench_{table}", records=records, columns=columns)
        rate = len(records) / (time.perf_counter() - started)
        await connection.execute(f"drop table bench_{table}")
        return rate
    finally:
        await connection.close()


async def imported(stack: Stack, client: Client, tenant_id: str) -> Rates:
    """Import customers: from the first byte of the upload until the import is complete."""
    started = time.perf_counter()
    job = await client.call("POST", "/customers/imports", stream=_rows(), media_type="application/x-ndjson")
    state = await _followed(client, f"/customers/imports/{job['id']}")
    assert state["created"] == ROWS, state
    ours = ROWS / (time.perf_counter() - started)
    return Rates(ours, await _copied(stack, "customer", "customer", tenant_id))


async def subscribed(client: Client) -> None:
    """Give each of them a subscription."""
    while (await client.get("/billing-accounts/summary"))["count"] < ROWS:
        await asyncio.sleep(0.05)
    for start in range(0, ROWS, _ORDERS_AT_ONCE):
        items = [
            {"customer_external_reference": f"bench-{number}", "plan_code": "FIBER", "started_on": "2026-01-01"}
            for number in range(start, start + _ORDERS_AT_ONCE)
        ]
        await client.post("/subscriptions/bulk", {"items": items})


async def invoiced(stack: Stack, client: Client, tenant_id: str, period: str) -> Rates:
    """Bill a month of them: from the order of the run until it is complete."""
    await quiet(stack)
    started = time.perf_counter()
    run = await client.post("/billing-runs", {"period": period})
    state = await _followed(client, f"/billing-runs/{run['id']}")
    assert state["invoices"] == ROWS, state
    ours = ROWS / (time.perf_counter() - started)
    return Rates(ours, await _copied(stack, "billing", "invoice", tenant_id))


async def quiet(stack: Stack) -> None:
    """Wait until the relays have nothing left to send."""
    for service in ("customer", "billing"):
        connection = await asyncpg.connect(stack.database_url(service, "relay"))
        while await connection.fetchval("select exists (select from outbox)"):
            await asyncio.sleep(0.05)
        await connection.close()
