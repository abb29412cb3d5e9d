"""What is not as the records say: planted, found, and repaired by a deployment, or told of until somebody mends it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from deploy.stack.stack import Stack
from services.provisioning.domain.drift import Kind
from services.provisioning.settings import DeploymentSettings
from services.provisioning.use_cases.reconcile import Reconciler
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy
from tests.deployments import past_security, prepared, server_of, settled, status_of, unwritable
from tests.in_process import service_in_process
from tests.integration.test_targets import leaves
from tests.world import fits

V1 = "/api/v1"


@pytest.fixture(scope="module", autouse=True)
async def began(stack: Stack) -> AsyncIterator[datetime]:
    """Have provisioning look often; return when these tests began."""
    began = datetime.now(UTC) - timedelta(seconds=1)
    await stack.children.pop("provisioning").stop()
    before = dict(stack.environment)
    stack.environment["DEPLOYMENT_RECONCILE_SECONDS"] = "0.5"
    await stack.start_service("provisioning")
    stack.environment.clear()
    stack.environment.update(before)
    yield began
    await stack.children.pop("provisioning").stop()
    await stack.start_service("provisioning")


async def changed(stack: Stack, service: str, query: str, *args: object) -> None:
    async with past_security(stack, service) as database:
        assert await database.execute(query, *args) in ("UPDATE 1", "INSERT 0 1", "DELETE 1")


async def drifts(platform: Api, tenant: str, **params: str) -> list[dict[str, Any]]:
    found = await platform.send("GET", f"{V1}/deployments/drifts", params={"tenant_id": tenant, **params})
    items: list[dict[str, Any]] = found.expect(200)["items"]
    return items


async def found(platform: Api, tenant: str, kind: str, resolved: bool) -> dict[str, Any]:
    """Return a tenant's only drift once it is found, or resolved."""

    async def so() -> Any:
        items = await drifts(platform, tenant, kind=kind)
        return items[0] if items and (items[0]["resolved_at"] is not None) is resolved else None

    drift: dict[str, Any] = await eventually(so)
    assert [item["kind"] for item in await drifts(platform, tenant)] == [kind]
    return drift


async def told(stack: Stack, drift: dict[str, Any]) -> list[str]:
    """Return what was published of a drift, once it was."""

    async def both() -> Any:
        async with past_security(stack, "provisioning") as database:
            rows = await database.fetch(
                "select headers from journal where topic = 'provisioning.drift.v1' and key = $1", drift["id"]
            )
        kinds = sorted(json.loads(row["headers"])["ce_type"].rsplit(".", 1)[-1] for row in rows)
        return kinds if len(kinds) == 2 else None

    kinds: list[str] = await eventually(both)
    return kinds


async def repairs(platform: Api, tenant: str) -> list[dict[str, Any]]:
    items = (await platform.send("GET", f"{V1}/deployments", params={"tenant_id": tenant})).expect(200)["items"]
    return [item for item in items if item["operation"].startswith("repair")]


REMOVED = "update workspace set removed_at = now() where tenant_id = $1"
DISMISSED = "delete from app_user where tenant_id = $1"


@pytest.mark.parametrize(
    ("service", "loss", "kind", "remedy", "steps"),
    [
        ("customer", REMOVED, "workspace_missing", "repair", ["prepare_workspaces", "verify"]),
        ("billing", REMOVED, "workspace_missing", "repair", ["prepare_workspaces", "verify"]),
        ("tenant", DISMISSED, "administrator_missing", "repair_administrator", ["create_administrator"]),
    ],
)
@pytest.mark.parametrize("closed", [False, True])
async def test_what_is_missing_is_found_and_repaired(
    stack: Stack,
    platform: Api,
    began: datetime,
    service: str,
    loss: str,
    kind: str,
    remedy: str,
    steps: list[str],
    closed: bool,
) -> None:
    tenant = await prepared(stack, platform, "deploy", *(["suspend"] if closed else []))
    await changed(stack, service, loss, UUID(tenant))
    drift = await found(platform, tenant, kind, resolved=True)
    assert (drift["remedy"], drift["attempts"]) == (remedy, 1)
    repair = (await repairs(platform, tenant))[0]
    assert (repair["id"], repair["status"]) == (drift["deployment_id"], "succeeded")
    assert [step["name"] for step in repair["steps"]] == steps
    assert await told(stack, drift) == ["DriftFound", "DriftResolved"]
    assert await status_of(platform, tenant) == ("suspended" if closed else "active")
    await fits(stack, began, [])


async def test_an_end_that_was_not_heard_of_is_told_again(stack: Stack, platform: Api) -> None:
    tenant = await prepared(stack, platform, "deploy")
    await changed(stack, "tenant", "update tenant set status = 'deploying' where tenant_id = $1", UUID(tenant))
    drift = await found(platform, tenant, "status_differs", resolved=True)
    assert drift["remedy"] == "tell_again"
    assert drift["detail"] == "the tenant is deploying, and its last deployment, deploy, has succeeded"
    assert await status_of(platform, tenant) == "active"
    assert await repairs(platform, tenant) == []


async def test_a_status_that_no_deployment_led_to_is_reported_until_it_is_mended(stack: Stack, platform: Api) -> None:
    tenant = await prepared(stack, platform, "deploy", "suspend")
    # Nobody hears of it: the gateway refuses the tenant still.
    await changed(stack, "tenant", "update tenant set status = 'maintenance' where tenant_id = $1", UUID(tenant))

    async def both() -> Any:
        items = {item["kind"]: item for item in await drifts(platform, tenant, resolved="false")}
        return items if items.keys() == {"status_differs", "standing_differs"} else None

    items = await eventually(both)
    assert {item["remedy"] for item in items.values()} == {"report"}
    assert items["standing_differs"]["detail"] == (
        "the gateway refuses its users as /problems/tenant-suspended, and the tenant is maintenance"
    )
    await changed(stack, "tenant", "update tenant set status = 'suspended' where tenant_id = $1", UUID(tenant))

    async def mended() -> bool:
        return await drifts(platform, tenant, resolved="false") == []

    await eventually(mended)
    assert len(await drifts(platform, tenant, resolved="true")) == 2
    for item in items.values():
        assert await told(stack, item) == ["DriftFound", "DriftResolved"]
    assert await repairs(platform, tenant) == []


async def test_a_workspace_that_was_left_behind_is_reported(stack: Stack, platform: Api) -> None:
    tenant = await prepared(stack, platform)
    await changed(
        stack,
        "customer",
        "insert into workspace (tenant_id, deployment_id, name, country, time_zone, version)"
        " values ($1, $2, 'Left', 'US', 'UTC', 1)",
        UUID(tenant),
        uuid4(),
    )
    drift = await found(platform, tenant, "workspace_left", resolved=False)
    assert (drift["remedy"], drift["deployment_id"]) == ("report", None)
    assert drift["detail"] == "GET /api/v1/workspace answered 200, and the tenant is registered"
    await changed(stack, "customer", "delete from workspace where tenant_id = $1", UUID(tenant))
    await found(platform, tenant, "workspace_left", resolved=True)


async def test_a_repair_that_fails_takes_nothing_away_and_is_tried_again(stack: Stack, platform: Api) -> None:
    tenant = await prepared(stack, platform, "deploy")
    await changed(stack, "billing", REMOVED, UUID(tenant))

    async def under_way() -> Any:
        return next((item for item in await repairs(platform, tenant) if item["status"] == "running"), None)

    async with unwritable(stack, "customer", "workspace"):
        repair = await eventually(under_way)
        await platform.send("POST", f"{V1}/deployments/{repair['id']}/cancel", {"reason": "It hangs"})
    drift = await found(platform, tenant, "workspace_missing", resolved=True)
    assert (await platform.send("GET", f"{V1}/deployments/{repair['id']}")).expect(200)["status"] == "failed"
    async with past_security(stack, "billing") as database:
        assert await database.fetchval("select count(*) from plan where tenant_id = $1", UUID(tenant)) == 3
    assert await status_of(platform, tenant) == "active"
    assert drift["attempts"] >= 1


async def test_a_service_that_is_away_is_no_drift(stack: Stack, platform: Api) -> None:
    sound, lost = [await prepared(stack, platform, "deploy") for _ in range(2)]
    await stack.children["billing"].stop()
    try:
        # Once this is found, the other was looked at as often.
        await changed(stack, "customer", REMOVED, UUID(lost))
        await found(platform, lost, "workspace_missing", resolved=False)
    finally:
        await stack.start_service("billing")
    await found(platform, lost, "workspace_missing", resolved=True)
    assert await drifts(platform, sound) == []


async def test_what_ended_after_it_was_looked_is_not_judged_by_what_was_seen(stack: Stack, platform: Api) -> None:
    tenant = await prepared(stack, platform, "deploy")
    seen = (await platform.send("GET", f"{V1}/tenants/{tenant}")).expect(200)
    secret = stack.jwt_secret_key
    async with service_in_process(stack, "provisioning", gateway_url=stack.gateway_url, jwt_secret_key=secret) as parts:
        reconciler = Reconciler(parts, DeploymentSettings())
        nobody: set[UUID] = set()  # had an administrator when it was asked
        before = datetime.now(UTC) - timedelta(hours=1)
        assert await reconciler._look_at([seen], nobody, before) == set()
        (suspicion,) = await reconciler._look_at([seen], nobody, datetime.now(UTC))
    assert (suspicion.tenant_id, suspicion.kind) == (UUID(tenant), Kind.ADMINISTRATOR_MISSING)


@asynccontextmanager
async def hidden(server_url: str, name: str) -> AsyncIterator[None]:
    """Have a database be nowhere to be found, whoever works with it."""
    server = await asyncpg.connect(server_url)
    try:
        await server.execute(f"alter database {name} with allow_connections false")
        await server.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = $1", name)
        await server.execute(f"alter database {name} rename to {name}_hidden")
        yield
        await server.execute(f"alter database {name}_hidden rename to {name}")
        await server.execute(f"alter database {name} with allow_connections true")
    finally:
        await server.close()


@pytest.mark.parametrize("target", ["process", "container"], indirect=True)
async def test_a_lost_database_of_a_tenants_own_is_reported(
    stack: Stack, public: Api, platform: Api, target: str
) -> None:
    tenant = (await deploy(public, platform, target)).id
    database = f"dotmac_billing_{UUID(tenant).hex}"
    await settled(stack, tenant)
    async with hidden(await server_of(stack, tenant, target), database):
        drift = await found(platform, tenant, "database_missing", resolved=False)
        assert (drift["remedy"], drift["deployment_id"]) == ("report", None)
        assert drift["detail"] == f"there is no database {database}"
    await found(platform, tenant, "database_missing", resolved=True)
    assert await repairs(platform, tenant) == []
    await leaves(stack, platform, tenant)


async def test_drifts_are_the_platforms_and_a_tenants_own(platform: Api, isp: Tenant) -> None:
    assert (await isp.api.send("GET", f"{V1}/deployments/drifts")).expect(200)["items"] == []
    for params in ({"kind": "x"}, {"resolved": "perhaps"}, {"tenant_id": "x"}):
        (await platform.send("GET", f"{V1}/deployments/drifts", params=params)).problem(422)
