"""`python -m bench.deployments`: how long a deployment takes, alone and among many, and where the time goes."""

import asyncio
import secrets
import statistics
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

import asyncpg
import uvloop
from rich.console import Console

from bench.report import Report
from cli.client import Client
from deploy.stack.stack import Stack, temporary

ALONE = 60
AT_ONCE = 200
_WARM_UP = 5
_STEPS = """
select step->>'name' as name, percentile_cont(array[0.5, 0.99]) within group (order by 1000 * extract(epoch from
    (step->>'finished_at')::timestamptz - (step->>'started_at')::timestamptz)) as ms, min(ordinality) as place
from deployment, jsonb_array_elements(steps) with ordinality as e (step, ordinality)
where operation = $1 and deployment_id = any($2::uuid[]) group by 1 order by place
"""
console = Console()


async def main() -> None:
    report = Report(console)
    unlimited = dict.fromkeys(("RATE_LIMIT", "TENANT_RATE_LIMIT", "ADDRESS_RATE_LIMIT"), "1000000/second")
    async with (
        temporary("bench", partial(Stack, any_ports=True, say=console.print, environment=unlimited)) as stack,
        Client(stack.gateway_url, *stack.administrator) as platform,
    ):
        await _alone(stack, platform, report)
        await _at_once(stack, platform, report)
    report.show()


async def registered(platform: Client) -> str:
    """Register a tenant, and return its id."""
    made = await platform.post(
        "/tenants",
        {
            "name": "Bench",
            "slug": f"bench-{secrets.token_hex(5)}",
            "contact_email": "admin@bench.example",
            "plan": "standard",
            "currency": "USD",
            "country": "US",
            "time_zone": "UTC",
        },
    )
    found: str = made["id"]
    return found


async def _alone(stack: Stack, platform: Client, report: Report) -> None:
    """One after the other: from the request until the tenant is active, as the database has it."""
    tenants = [await registered(platform) for _ in range(ALONE)]
    for operation in ("deploy", "suspend", "resume"):
        took, deployments = [], []
        for number, tenant in enumerate(tenants):
            began = time.perf_counter()
            order = await platform.post(f"/tenants/{tenant}/deployments", {"operation": operation})
            await _until(platform, order["deployment_id"], tenant, operation)
            if number >= _WARM_UP:
                took.append(1000 * (time.perf_counter() - began))
                deployments.append(order["deployment_id"])
            await asyncio.sleep(0.05)  # the tenant service hears of the end as well, and takes the next order
        goal = "p50 ≤ 300 ms" if operation == "deploy" else ""
        figure = f"{_percentile(took, 50):.0f} / {_percentile(took, 99):.0f} ms"
        report.add(f"{operation}, request to done, p50 / p99", figure, goal=goal)
        for row in await _steps(stack, operation, deployments):
            report.add(f"  {row['name']}", f"{row['ms'][0]:.0f} / {row['ms'][1]:.0f} ms")


async def _until(platform: Client, deployment: str, tenant: str, operation: str) -> None:
    status = "suspended" if operation == "suspend" else "active"
    while (await platform.get(f"/tenants/{tenant}"))["status"] != status:
        await asyncio.sleep(0.005)
    while (await platform.get(f"/deployments/{deployment}"))["status"] not in ("succeeded", "failed"):
        await asyncio.sleep(0.005)


async def _at_once(stack: Stack, platform: Client, report: Report) -> None:
    tenants = [await registered(platform) for _ in range(AT_ONCE)]
    began = time.perf_counter()
    orders = await asyncio.gather(*(platform.post(f"/tenants/{tenant}/deployments", {}) for tenant in tenants))
    connection = await asyncpg.connect(f"{stack.server_url.rpartition('/')[0]}/dotmac_tenant")
    try:
        while True:
            rows = await connection.fetch(
                "select tenant_id, min(made_at) filter (where to_status = 'deploying') as began,"
                " max(made_at) filter (where to_status = 'active') as ended from tenant_transition"
                " where tenant_id = any($1::uuid[]) group by 1",
                tenants,
            )
            if all(row["ended"] for row in rows):
                break
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
    took = [1000 * _seconds(row["began"], row["ended"]) for row in rows]
    whole = time.perf_counter() - began
    figure = f"{_percentile(took, 50):,.0f} / {_percentile(took, 99):,.0f} ms"
    report.add(f"{AT_ONCE} tenants deployed at once, p50 / p99", figure)
    report.add("deployments a minute", f"{60 * AT_ONCE / whole:,.0f}")
    for row in await _steps(stack, "deploy", [order["deployment_id"] for order in orders]):
        report.add(f"  {row['name']}", f"{row['ms'][0]:.0f} / {row['ms'][1]:.0f} ms")


async def _steps(stack: Stack, operation: str, deployments: Sequence[str]) -> list[Any]:
    connection = await asyncpg.connect(f"{stack.server_url.rpartition('/')[0]}/dotmac_provisioning")
    try:
        return list(await connection.fetch(_STEPS, operation, list(deployments)))
    finally:
        await connection.close()


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _seconds(began: datetime, ended: datetime) -> float:
    return (ended - began).total_seconds()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
