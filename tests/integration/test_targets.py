"""What every target has to do for a tenant, from its deployment until nothing of it is left."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from deploy.stack.stack import Stack
from tests.api import Api
from tests.conftest import deploy
from tests.crashes import mortal
from tests.deployments import done, past_security, settled, status_of
from tests.integration.test_deprovision import settle_in
from tests.world import fits

V1 = "/api/v1"
TARGETS = ("pooled", "process")


@pytest.fixture(scope="module", autouse=True)
def began() -> datetime:
    """Return when these tests began: what others left behind is not theirs."""
    return datetime.now(UTC) - timedelta(seconds=1)


@pytest.fixture(scope="module")
async def crash_file(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    file = tmp_path_factory.mktemp("targets") / "provisioning.crash"
    async with mortal(stack, file):
        yield file


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
            "select value is not null from journal where topic = 'provisioning.route.v1' and tenant_id = $1"
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
    assert await own_things(stack, isp.id) == (ALL if dedicated else NOTHING)
    for service in ("customer", "billing"):
        assert (await rows_of(stack, service, isp.id) == 0) is dedicated
    await done(platform, stack, isp.id, operation="suspend")
    (await isp.api.send("GET", f"{V1}/customers")).problem(403, "tenant-suspended")
    await done(platform, stack, isp.id, operation="resume")
    assert len((await isp.api.send("GET", f"{V1}/customers")).expect(200)["items"]) == 2
    await done(platform, stack, isp.id, operation="deprovision", grace_seconds=0)
    assert await status_of(platform, isp.id) == "deprovisioned"
    assert await own_things(stack, isp.id) == NOTHING
    for service in ("customer", "billing"):
        assert await rows_of(stack, service, isp.id) == 0
    await fits(stack, began, [])
