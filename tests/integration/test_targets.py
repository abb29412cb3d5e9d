"""What every target has to do for a tenant, from its deployment until nothing of it is left."""

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy, registration
from tests.deployments import done, ended, ordered, past_security, settled, status_of
from tests.integration.test_deprovision import settle_in
from tests.integration.test_operation_failures import at, away, failing, time_is_over
from tests.integration.test_snapshots import command
from tests.world import fits

V1 = "/api/v1"
TARGETS = ("pooled", "process")


@pytest.fixture(scope="module", autouse=True)
def began() -> datetime:
    """Return when these tests began: what others left behind is not theirs."""
    return datetime.now(UTC) - timedelta(seconds=1)


def processes_of(tenant: str) -> Iterator[int]:
    """Give the processes that work for a tenant alone."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"DEDICATED_TO={tenant}".encode() in (entry / "environ").read_bytes():
                yield int(entry.name)
        except OSError:
            continue  # it has ended meanwhile, or is somebody else's


async def own_things(stack: Stack, tenant: str) -> dict[str, int]:
    """Count what there is of a tenant's own: databases, roles, processes, consumer groups, routes."""
    server, mark = await asyncpg.connect(stack.server_url), f"%\\_{UUID(tenant).hex}%"
    try:
        databases = await server.fetchval("select count(*) from pg_database where datname like $1", mark)
        roles = await server.fetchval("select count(*) from pg_roles where rolname like $1", mark)
    finally:
        await server.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka)
    try:
        await admin.start()
        groups = [name for name, *_ in await admin.list_consumer_groups() if name.endswith(tenant)]
    finally:
        await admin.close()
    async with past_security(stack, "provisioning") as database:
        told = await database.fetchval(
            "select value is not null from journal where topic = 'provisioning.route-snapshot.v1' and tenant_id = $1"
            " order by (headers->>'ce_aggregateversion')::int desc limit 1",
            UUID(tenant),
        )
    return {
        "databases": databases,
        "roles": roles,
        "processes": len(list(processes_of(tenant))),
        "consumer groups": len(groups),
        "routes": int(bool(told)),
    }


async def rows_of(stack: Stack, service: str, tenant: str) -> int:
    """Count the rows of a tenant's workspace and business in a service's shared database."""
    table = {"customer": "customer", "billing": "billing_account"}[service]
    async with past_security(stack, service) as database:
        found: int = await database.fetchval(
            f"select (select count(*) from {table} where tenant_id = $1)"
            " + (select count(*) from workspace where tenant_id = $1)",
            UUID(tenant),
        )
    return found


NOTHING = {"databases": 0, "roles": 0, "processes": 0, "consumer groups": 0, "routes": 0}
# Four subscriptions of each of the two services; the tenant's databases have four roles each.
ALL = {"databases": 2, "roles": 8, "processes": 2, "consumer groups": 8, "routes": 1}


@pytest.mark.parametrize("target", TARGETS)
async def test_a_tenant_is_deployed_used_closed_opened_and_gone(
    stack: Stack, public: Api, platform: Api, began: datetime, target: str
) -> None:
    isp = await deploy(public, platform, target)
    assert (isp.deployment["status"], isp.deployment["target"]) == ("succeeded", target)
    await settled(stack, isp.id)
    await settle_in(isp)
    dedicated = target != "pooled"

    async def metered() -> bool:  # for the platform's bill, wherever its accounts are
        async with past_security(stack, "billing") as database:
            count = "select sum(change) from active_customers where tenant_id = $1"
            return bool(await database.fetchval(count, UUID(isp.id)) == 2)

    await eventually(metered)
    assert await own_things(stack, isp.id) == (ALL if dedicated else NOTHING)
    for service in ("customer", "billing"):
        assert (await rows_of(stack, service, isp.id) == 0) is dedicated
    # Past the gateway, or where one does not know better, nothing of it gets into what others share.
    shared = await replace(isp.api, url=stack.url("customer")).send("POST", f"{V1}/customers", {"name": "Astray"})
    assert shared.status == (409 if dedicated else 201)
    await done(platform, stack, isp.id, operation="suspend")
    (await isp.api.send("GET", f"{V1}/customers")).problem(403, "tenant-suspended")
    await done(platform, stack, isp.id, operation="resume")
    assert len((await isp.api.send("GET", f"{V1}/customers")).expect(200)["items"]) == (2 if dedicated else 3)
    await done(platform, stack, isp.id, operation="deprovision", grace_seconds=0)
    assert await status_of(platform, isp.id) == "deprovisioned"
    assert await own_things(stack, isp.id) == NOTHING
    for service in ("customer", "billing"):
        assert await rows_of(stack, service, isp.id) == 0
    await fits(stack, began, [])


async def leaves(stack: Stack, platform: Api, tenant: str) -> None:
    """Have a tenant go, and see that nothing of it is left."""
    await done(platform, stack, tenant, operation="deprovision", grace_seconds=0)
    assert await own_things(stack, tenant) == NOTHING


@pytest.mark.parametrize("target", TARGETS)
async def test_a_step_that_fails_is_undone_with_all_before_it(
    stack: Stack, platform: Api, began: datetime, target: str
) -> None:
    tenant = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)["id"]
    direct, at_tenant = (replace(platform, url=stack.url(each)) for each in ("provisioning", "tenant"))
    async with away(stack, "gateway"):
        deployment = await ordered(at_tenant, tenant, target=target)
        await at(direct, deployment, "verify")
        await time_is_over(stack, deployment)
        await failing(direct, deployment, "verify")
    found = await ended(platform, deployment)
    assert found["status"] == "failed"
    assert {step["status"] for step in found["steps"]} <= {"succeeded", "compensated", "failed"}
    await settled(stack, tenant)
    assert await own_things(stack, tenant) == NOTHING
    await fits(stack, began, [])
    (await platform.send("POST", f"{V1}/deployments/{deployment}/retry")).expect(200)
    assert (await ended(platform, deployment))["status"] == "succeeded"
    await settled(stack, tenant)
    await leaves(stack, platform, tenant)


async def test_processes_that_end_are_started_anew(stack: Stack, public: Api, platform: Api) -> None:
    isp = await deploy(public, platform, "process")
    await settled(stack, isp.id)
    (await isp.api.send("POST", f"{V1}/customers", {"name": "Ada", "external_reference": "t-1"})).expect(201)
    # Whoever lost the topic can have it told anew: of each tenant that ever had a route.
    assert re.search(r"[1-9]\d* snapshots", await command(stack, "provisioning"))
    assert await own_things(stack, isp.id) == ALL
    one, another = processes_of(isp.id)
    os.kill(one, signal.SIGKILL)
    await at_work(isp, without={one}, beside={another})
    # All that provisioning started ends with it.
    before = set(processes_of(isp.id))
    stack.children["provisioning"].kill()
    await at_work(isp, without=before)
    (await isp.api.send("POST", f"{V1}/customers", {"name": "Grace", "external_reference": "t-2"})).expect(201)

    async def accounts() -> bool:
        return len((await isp.api.send("GET", f"{V1}/billing-accounts")).body.get("items", [])) == 2

    await eventually(accounts)
    await leaves(stack, platform, isp.id)


async def at_work(isp: Tenant, without: set[int], beside: frozenset[int] | set[int] = frozenset()) -> None:
    """Return once a tenant has both of its processes, other ones than these, and both answer through the gateway."""

    async def both() -> bool:
        running = set(processes_of(isp.id))
        answers = [await isp.api.send("GET", f"{V1}/{path}") for path in ("workspace", "billing-workspace")]
        return len(running - without) == 2 and beside <= running and all(answer.status == 200 for answer in answers)

    await eventually(both)


async def test_a_target_is_chosen_when_a_tenant_is_deployed(stack: Stack, platform: Api) -> None:
    tenant = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)["id"]
    path = f"{V1}/tenants/{tenant}/deployments"
    (await platform.send("POST", path, {"target": "nowhere"})).problem(422)
    await done(platform, stack, tenant)
    (await platform.send("POST", path, {"operation": "suspend", "target": "process"})).problem(409, "wrong-state")
    preview = {"operation": "deprovision", "target": "process"}
    steps = (await platform.send("GET", f"{V1}/deployments/plan", params=preview)).expect(200)["steps"]
    ends = ["prove_deletion", "withdraw_route", "stop_instances", "drop_databases", "retire"]
    assert [step["name"] for step in steps][-5:] == ends
