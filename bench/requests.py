"""Requests through the gateway against the same ones sent to the service directly."""

import asyncio
import statistics
import time
from dataclasses import dataclass

import aiohttp

from chassis.ids import PLATFORM_TENANT
from chassis.security.scopes import scopes_of
from chassis.security.tokens import TokenIssuer
from deploy.stack.stack import Stack

REQUESTS = 4_000
CONNECTIONS = 16


@dataclass(frozen=True)
class Served:
    """What was answered, and how fast."""

    per_second: float
    median_ms: float


async def measure(stack: Stack) -> tuple[Served, Served]:
    """Return the figures through the gateway, and direct."""
    token = TokenIssuer(stack.jwt_secret_key).issue("bench", PLATFORM_TENANT, scopes_of(("tenant_admin",)))
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        await _ask(session, stack.gateway_url)  # a first round, for caches and connections
        through = await _ask(session, stack.gateway_url)
        return through, await _ask(session, stack.url("customer"))


async def _ask(session: aiohttp.ClientSession, base: str) -> Served:
    times: list[float] = []

    async def ask() -> None:
        for _ in range(REQUESTS // CONNECTIONS):
            started = time.perf_counter()
            async with session.get(f"{base}/api/v1/customers/summary") as answer:
                await answer.read()
                answer.raise_for_status()
            times.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    return Served(len(times) / (time.perf_counter() - started), statistics.median(times) * 1000)
