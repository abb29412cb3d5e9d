"""What every target has to do for a tenant, from its deployment until nothing of it is left."""

import asyncio
import os
import re
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from docker import DockerClient
from testcontainers.core.docker_client import DockerClient as Engine

from deploy.stack.stack import Stack
from tests import servers
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy, registration
from tests.deployments import PATIENCE_SECONDS, done, ended, ordered, past_security, settled, status_of
from tests.integration.test_deprovision import settle_in
from tests.integration.test_operation_failures import at, away, failing, time_is_over
from tests.integration.test_snapshots import command
from tests.world import fits

V1 = "/api/v1"
TARGETS = ("pooled", "process", "container")


@pytest.fixture(scope="module", autouse=True)
def began() -> datetime:
    """Return when these tests began: what others left behind is not theirs."""
    return datetime.now(UTC) - timedelta(seconds=1)


def processes_of(tenant: str) -> Iterator[int]:
    """Give the processes that work for a tenant alone, but for those in containers: by the logs they write."""
    ours = Path("/proc/self/ns/pid").readlink()
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and (entry / "ns/pid").readlink() == ours
                and (entry / "fd/1").readlink().name.endswith(f"_{UUID(tenant).hex}.log")
            ):
                yield int(entry.name)
        except OSError:
            continue  # it has ended meanwhile, or is somebody else's


async def own_things(stack: Stack, tenant: str) -> dict[str, int]:
    """Count what there is of a tenant's own, wherever it could be."""
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
        **on_engine(tenant),
    }


def on_engine(tenant: str) -> dict[str, int]:
    """Count what there is of a tenant on the container engine, if there is one."""
    found: dict[str, int] = {"containers": 0, "networks": 0, "volumes": 0}
    if servers.why_no_engine() is None:
        client, chosen = Engine().client, {"label": f"dotmac.tenant={tenant}"}
        found["containers"] = len(client.containers.list(all=True, filters=chosen, ignore_removed=True))
        found["networks"] = len(client.networks.list(filters=chosen))
        found["volumes"] = len(client.volumes.list(filters=chosen))
        client.close()
    return found


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


NOTHING = {
    **dict.fromkeys(("databases", "roles", "processes", "consumer groups", "routes"), 0),
    **dict.fromkeys(("containers", "networks", "volumes"), 0),
}
# Four subscriptions of the one service, five of the other. The databases have four roles each, where all can see them.
ALL = {
    "pooled": NOTHING,
    "process": {**NOTHING, "databases": 2, "roles": 8, "processes": 2, "consumer groups": 9, "routes": 1},
    "container": {**NOTHING, "containers": 3, "networks": 3, "volumes": 1, "consumer groups": 9, "routes": 1},
}


@pytest.mark.parametrize("target", TARGETS, indirect=True)
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
    assert await own_things(stack, isp.id) == ALL[target]
    for service in ("customer", "billing"):
        assert (await rows_of(stack, service, isp.id) == 0) is dedicated
    # Past the gateway, or where one does not know better, nothing of it gets into what others share.
    shared = await replace(isp.api, url=stack.url("customer")).send("POST", f"{V1}/customers", {"name": "Astray"})
    assert shared.status == (409 if dedicated else 201)
    await done(platform, stack, isp.id, operation="suspend")
    (await isp.api.send("GET", f"{V1}/customers")).problem(403, "tenant-suspended")
    await done(platform, stack, isp.id, operation="resume")
    if dedicated:
        await done(platform, stack, isp.id, operation="upgrade")
        assert await own_things(stack, isp.id) == ALL[target]
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


@pytest.mark.parametrize("target", TARGETS, indirect=True)
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
    assert await own_things(stack, isp.id) == ALL["process"]
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


@pytest.mark.parametrize("target", ["container"], indirect=True)
async def test_containers_that_end_are_started_anew_and_outlive_provisioning(
    stack: Stack, public: Api, platform: Api, target: str, engine: DockerClient
) -> None:
    isp = await deploy(public, platform, target)
    await settled(stack, isp.id)
    (await isp.api.send("POST", f"{V1}/customers", {"name": "Ada", "external_reference": "c-1"})).expect(201)
    for part in ("customer-1-1", "database"):
        before = parts_of(engine, isp.id)
        engine.containers.get(before[part]).kill()
        await back(engine, isp, without=before[part])
        kept = parts_of(engine, isp.id).items() & before.items()
        # Those that stand on a database start anew with it.
        assert dict(kept).keys() == (set() if part == "database" else before.keys() - {part})
    # Of two installations on one engine neither sees the other's, and what nobody wants is removed.
    before = parts_of(engine, isp.id)
    stranger, orphan = (planted(engine, stack, installation) for installation in ("another", None))
    stack.children["provisioning"].kill()
    engine.containers.get(before["billing-1-1"]).kill()
    await back(engine, isp, without=before["billing-1-1"])
    await eventually(lambda: gone(engine, orphan))
    assert parts_of(engine, isp.id).items() >= {(part, before[part]) for part in ("customer-1-1", "database")}
    engine.containers.get(stranger).remove(force=True)
    assert [each["name"] for each in (await isp.api.send("GET", f"{V1}/customers")).expect(200)["items"]] == ["Ada"]
    await leaves(stack, platform, isp.id)


def parts_of(engine: DockerClient, tenant: str) -> dict[str, str]:
    """Return the ids of a tenant's containers that run, by what they are."""
    found = engine.containers.list(filters={"label": f"dotmac.tenant={tenant}"}, ignore_removed=True)
    return {each.labels["dotmac.part"]: each.id for each in found}


async def back(engine: DockerClient, isp: Tenant, without: str) -> None:
    """Return once a tenant has all of its containers, this one not among them, and both services answer."""

    async def all_there() -> bool:
        found = parts_of(engine, isp.id)
        return len(found) == 3 and without not in found.values() and await both_answer(isp)

    await eventually(all_there, seconds=PATIENCE_SECONDS)


def planted(engine: DockerClient, stack: Stack, installation: str | None) -> str:
    """Start a container that is a tenant's by its labels, of whom nobody knows; return its id."""
    labels = {
        "dotmac.installation": installation or stack.installation,
        "dotmac.tenant": str(uuid4()),
        "dotmac.part": "customer-1-1",
    }
    command = ["python", "-c", "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"]
    started = engine.containers.run(servers.IMAGE, command, detach=True, labels=labels, network_mode="none")
    found: str = started.id
    return found


async def gone(engine: DockerClient, container: str) -> bool:
    return all(each.id != container for each in engine.containers.list(all=True, ignore_removed=True))


Capture = pytest.CaptureFixture[str]


async def at_once(stack: Stack, platform: Api, capsys: Capture, target: str, count: int) -> None:
    """Deploy so many tenants at once, see that each works, and have all of them leave at once."""
    tenants = [(await platform.send("POST", f"{V1}/tenants", registration())).expect(201)["id"] for _ in range(count)]

    async def active(tenant: str) -> float:
        began = time.perf_counter()
        deployment = await ordered(platform, tenant, target=target)

        async def so() -> bool:
            return await status_of(platform, tenant) in ("active", "failed")

        await eventually(so, seconds=PATIENCE_SECONDS)
        took = time.perf_counter() - began
        found = await ended(platform, deployment)
        assert (found["status"], found["reason"]) == ("succeeded", None)
        return took

    took = await asyncio.gather(*map(active, tenants))
    p50, p99 = (statistics.quantiles(took, n=100, method="inclusive")[place - 1] for place in (50, 99))
    with capsys.disabled():
        print(f"\n{count} tenants to {target} at once: active after {p50:.1f} s (p50), {p99:.1f} s (p99)")  # noqa: T201
    for tenant in tenants:
        await settled(stack, tenant)
        assert await own_things(stack, tenant) == ALL[target]
    leaving = {"operation": "deprovision", "grace_seconds": 0}
    for deployment in [await ordered(platform, tenant, **leaving) for tenant in tenants]:
        assert (await ended(platform, deployment))["status"] == "succeeded"
    for tenant in tenants:
        assert await own_things(stack, tenant) == NOTHING


async def test_ten_tenants_get_processes_at_once(stack: Stack, platform: Api, capsys: Capture) -> None:
    await at_once(stack, platform, capsys, "process", 10)


@pytest.mark.parametrize("target", ["container"], indirect=True)
async def test_three_tenants_get_containers_at_once(stack: Stack, platform: Api, capsys: Capture, target: str) -> None:
    await at_once(stack, platform, capsys, target, 3)


async def both_answer(isp: Tenant) -> bool:
    """Say whether both of a tenant's services answer through the gateway."""
    answers = [await isp.api.send("GET", f"{V1}/{path}") for path in ("workspace", "billing-workspace")]
    return all(answer.status == 200 for answer in answers)


async def at_work(isp: Tenant, without: set[int], beside: frozenset[int] | set[int] = frozenset()) -> None:
    """Return once a tenant has both of its processes, other ones than these, and both answer through the gateway."""

    async def both() -> bool:
        running = set(processes_of(isp.id))
        return len(running - without) == 2 and beside <= running and await both_answer(isp)

    await eventually(both)


async def test_a_target_is_chosen_when_a_tenant_is_deployed(stack: Stack, platform: Api) -> None:
    tenant = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)["id"]
    path = f"{V1}/tenants/{tenant}/deployments"
    (await platform.send("POST", path, {"target": "nowhere"})).problem(422)
    await done(platform, stack, tenant)
    (await platform.send("POST", path, {"operation": "suspend", "target": "process"})).problem(409, "wrong-state")
    engine_is_there = servers.why_no_containers() is None
    for target, refused in (("pooled", False), ("process", False), ("container", not engine_is_there)):
        plan = (await platform.send("GET", f"{V1}/deployments/plan", params={"target": target})).expect(200)
        assert bool(plan["refusal"]) is refused
    preview = {"operation": "deprovision", "target": "process"}
    steps = (await platform.send("GET", f"{V1}/deployments/plan", params=preview)).expect(200)["steps"]
    ends = ["prove_deletion", "withdraw_route", "stop_instances", "drop_databases", "retire"]
    assert [step["name"] for step in steps][-5:] == ends


async def test_200_tenants_come_to_pooled_at_once(stack: Stack, platform: Api, capsys: Capture) -> None:
    at_tenant = replace(platform, url=stack.url("tenant"))
    tenants = [(await at_tenant.send("POST", f"{V1}/tenants", registration())).expect(201)["id"] for _ in range(200)]
    ordering = time.perf_counter()
    for tenant in tenants:
        await ordered(at_tenant, tenant)
    async with past_security(stack, "tenant") as connection:

        async def all_active() -> bool:
            count = await connection.fetchval(
                "select count(*) from tenant where status = 'active' and tenant_id = any($1::uuid[])",
                [UUID(tenant) for tenant in tenants],
            )
            return bool(count == len(tenants))

        await eventually(all_active, seconds=120)
        p50, p99 = await connection.fetchrow(
            "select percentile_cont(0.5) within group (order by seconds),"
            " percentile_cont(0.99) within group (order by seconds) from (select extract(epoch from"
            " max(made_at) filter (where to_status = 'active') - max(made_at) filter (where to_status = 'deploying'))"
            " as seconds from tenant_transition where tenant_id = any($1::uuid[]) group by tenant_id) as each",
            [UUID(tenant) for tenant in tenants],
        )
    with capsys.disabled():
        took = time.perf_counter() - ordering
        print(f"\n200 tenants deployed at once in {took:.1f} s: p50 {p50:.2f} s, p99 {p99:.2f} s")  # noqa: T201
