"""`python -m bench.deployments`: how long a deployment takes, alone and among many, and where the time goes.

`python -m bench.deployments process container` measures other targets than `pooled`, as far as they can be had.
"""

import asyncio
import secrets
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import aiohttp
import asyncpg
import uvloop
from aiodocker import Docker
from aiodocker.exceptions import DockerError
from rich.console import Console

from bench.report import Report
from cli.client import Client
from deploy.stack.processes import own_address
from deploy.stack.stack import Stack, temporary
from services.provisioning.settings import deployment_settings


class Load(NamedTuple):
    """How many tenants a target is given, what they do there, and what is wanted of it."""

    alone: int
    at_once: int
    warm_up: int
    operations: Sequence[str]
    goal: str
    poll_seconds: float
    """Seldom where it takes long: what is asked for meanwhile takes its share of the cores."""


LOADS = {
    "pooled": Load(60, 200, 5, ("deploy", "suspend", "resume"), "p50 ≤ 300 ms", 0.005),
    "process": Load(6, 10, 1, ("deploy", "deprovision"), "p50 ≤ 4 s", 0.1),
    "container": Load(6, 3, 1, ("deploy", "deprovision"), "p50 ≤ 8 s", 0.1),
}
_STATUS = {"suspend": "suspended", "deprovision": "deprovisioned"}
_STEPS = """
select step->>'name' as name, percentile_cont(array[0.5, 0.99]) within group (order by 1000 * extract(epoch from
    (step->>'finished_at')::timestamptz - (step->>'started_at')::timestamptz)) as ms, min(ordinality) as place
from deployment, jsonb_array_elements(steps) with ordinality as e (step, ordinality)
where operation = $1 and deployment_id = any($2::uuid[]) group by 1 order by place
"""
console = Console()


async def main(targets: Sequence[str]) -> None:
    if unknown := set(targets) - LOADS.keys():
        sys.exit(f"there is no target {', '.join(sorted(unknown))}: {', '.join(LOADS)}")
    report, address = Report(console), ""
    if "container" in targets:
        if reason := await _why_no_containers():
            console.print(f"container is not measured: {reason}")
            targets = [target for target in targets if target != "container"]
        else:
            address = own_address()
    unlimited = dict.fromkeys(("RATE_LIMIT", "TENANT_RATE_LIMIT", "ADDRESS_RATE_LIMIT"), "1000000/second")
    async with (
        temporary(
            "bench", partial(Stack, any_ports=True, say=console.print, environment=unlimited, address=address)
        ) as stack,
        Client(stack.gateway_url, *stack.administrator) as platform,
    ):
        for target in targets:
            await _alone(stack, platform, report, target)
            await _at_once(stack, platform, report, target)
    report.show()


async def _why_no_containers() -> str | None:
    settings = deployment_settings()
    if not settings.engine_url or not settings.image:
        return "DOCKER_HOST, or DOTMAC_IMAGE, is not set"
    if not own_address():
        return "this machine has no address that containers reach"
    try:
        async with Docker(url=settings.engine_url) as docker:
            for image in (settings.image, settings.postgres_image):
                await docker.images.inspect(image)
    except (aiohttp.ClientError, OSError, DockerError) as error:
        return str(error)
    return None


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


async def _alone(stack: Stack, platform: Client, report: Report, target: str) -> None:
    """One after the other: from the request until the tenant is as it is to be, as the database has it."""
    load = LOADS[target]
    tenants = [await registered(platform) for _ in range(load.alone)]
    for operation in load.operations:
        took, deployments = [], []
        for number, tenant in enumerate(tenants):
            began = time.perf_counter()
            order = await platform.post(f"/tenants/{tenant}/deployments", _order(operation, target))
            await _until(platform, order["deployment_id"], tenant, operation, load.poll_seconds)
            if number >= load.warm_up:
                took.append(1000 * (time.perf_counter() - began))
                deployments.append(order["deployment_id"])
            await asyncio.sleep(0.05)  # the tenant service hears of the end as well, and takes the next order
        goal = load.goal if operation == "deploy" else ""
        figure = f"{_percentile(took, 50):,.0f} / {_percentile(took, 99):,.0f} ms"
        report.add(f"{target}: {operation}, request to done, p50 / p99", figure, goal=goal)
        for row in await _steps(stack, operation, deployments):
            report.add(f"  {row['name']}", f"{row['ms'][0]:,.0f} / {row['ms'][1]:,.0f} ms")


def _order(operation: str, target: str) -> dict[str, Any]:
    if operation == "deploy":
        return {"operation": operation, "target": target}
    return {"operation": operation, **({"grace_seconds": 0} if operation == "deprovision" else {})}


async def _until(platform: Client, deployment: str, tenant: str, operation: str, poll_seconds: float) -> None:
    """Return once the tenant is where the operation leads to, and that is known to have ended."""
    while (await platform.get(f"/tenants/{tenant}"))["status"] != _STATUS.get(operation, "active"):
        await _has_succeeded(platform, deployment)
        await asyncio.sleep(poll_seconds)
    while not await _has_succeeded(platform, deployment):
        await asyncio.sleep(poll_seconds)


async def _has_succeeded(platform: Client, deployment: str) -> bool:
    """Return whether a deployment has succeeded; one that failed ends the run."""
    found = await platform.get(f"/deployments/{deployment}")
    if found["status"] == "failed":
        sys.exit(f"the deployment {deployment} failed: {found['reason']}")
    return bool(found["status"] == "succeeded")


async def _at_once(stack: Stack, platform: Client, report: Report, target: str) -> None:
    load = LOADS[target]
    count = load.at_once
    tenants = [await registered(platform) for _ in range(count)]
    began, order = time.perf_counter(), _order("deploy", target)
    orders = await asyncio.gather(*(platform.post(f"/tenants/{tenant}/deployments", order) for tenant in tenants))
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
    report.add(f"{target}: {count} tenants deployed at once, p50 / p99", figure)
    report.add("deployments a minute", f"{60 * count / whole:,.0f}")
    for row in await _steps(stack, "deploy", [each["deployment_id"] for each in orders]):
        report.add(f"  {row['name']}", f"{row['ms'][0]:,.0f} / {row['ms'][1]:,.0f} ms")
    if "deprovision" in load.operations:  # what runs for a tenant would be in the way of what comes next
        for tenant in tenants:
            left = await platform.post(f"/tenants/{tenant}/deployments", _order("deprovision", target))
            await _until(platform, left["deployment_id"], tenant, "deprovision", load.poll_seconds)


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
        runner.run(main(sys.argv[1:] or ["pooled"]))
