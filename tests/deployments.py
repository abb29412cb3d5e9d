"""Deployments in tests: ordered, followed to their end."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg

from chassis.settings import Settings
from deploy.stack.stack import Stack
from services.provisioning.instances.containers import Containers
from services.provisioning.settings import DeploymentSettings
from tests import servers
from tests.api import Api, eventually
from tests.conftest import registration

V1 = "/api/v1"
PATIENCE_SECONDS = 300
"""What runs for a tenant alone starts in seconds, if nothing else does on the machine."""


async def ordered(platform: Api, tenant: str, **body: Any) -> str:
    """Order an operation, and return the deployment's id."""
    accepted = await platform.send("POST", f"{V1}/tenants/{tenant}/deployments", body)
    found: str = accepted.expect(202)["deployment_id"]
    return found


async def ended(platform: Api, deployment: str) -> dict[str, Any]:
    """Return a deployment that has ended, once the tenant service knows of it as well."""

    async def over() -> Any:
        found = (await platform.send("GET", f"{V1}/deployments/{deployment}")).expect(200)
        return found if found["status"] in ("succeeded", "failed") else None

    found: dict[str, Any] = await eventually(over, seconds=PATIENCE_SECONDS)
    return found


async def done(platform: Api, stack: Stack, tenant: str, **body: Any) -> dict[str, Any]:
    """Do an operation to its end, after which the next one can be ordered."""
    found = await ended(platform, await ordered(platform, tenant, **body))
    assert found["status"] == "succeeded", found
    await settled(stack, tenant)
    return found


async def settled(stack: Stack, tenant: str) -> None:
    connection = await asyncpg.connect(stack.database_url("tenant", "consumer"))
    try:
        await connection.execute(f"set app.tenant_ids = '{tenant}'")

        async def none_open() -> bool:
            count = await connection.fetchval("select count(*) from deployment_order where ended_at is null")
            return bool(count == 0)

        await eventually(none_open)
    finally:
        await connection.close()


async def prepared(stack: Stack, platform: Api, *operations: str) -> str:
    """Register a tenant, do these operations on it, and return its id."""
    tenant: str = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)["id"]
    for operation in operations:
        await done(platform, stack, tenant, operation=operation)
    return tenant


async def status_of(api: Api, tenant: str) -> str:
    status: str = (await api.send("GET", f"{V1}/tenants/{tenant}")).expect(200)["status"]
    return status


@contextlib.asynccontextmanager
async def past_security(
    stack: Stack, service: str, server_url: str | None = None
) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """Connect to a service's database as its server's administrator; without another one, the server is the stack's."""
    connection = await asyncpg.connect(f"{(server_url or stack.server_url).rpartition('/')[0]}/dotmac_{service}")
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def placed(stack: Stack, service: str, tenant: str, target: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """Connect to the database where a tenant's rows are, as its server's administrator."""
    name = service if target == "pooled" else f"{service}_{UUID(tenant).hex}"
    async with past_security(stack, name, await server_of(stack, tenant, target)) as database:
        yield database


async def server_of(stack: Stack, tenant: str, target: str) -> str:
    """Return where the server of a tenant's rows is; InstanceError if it is its own and does not run yet."""
    if target != "container":
        return stack.server_url
    secrets_ = {"secret_key": stack._secrets["SECRET_KEY"]}
    deployments = {"DOTMAC_IMAGE": servers.IMAGE, "installation": stack.installation}
    containers = Containers(Settings.model_validate(secrets_), DeploymentSettings.model_validate(deployments))
    return await containers.server_url(UUID(tenant))


async def tables_of_tenants(connection: "asyncpg.Connection[Any]") -> list[str]:
    """Return the tables of a service's database whose rows are of tenants."""
    rows = await connection.fetch(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'"
        " where c.relkind in ('r', 'p') and not c.relispartition and c.relnamespace = 'public'::regnamespace"
    )
    return [row["relname"] for row in rows]


@contextlib.asynccontextmanager
async def unwritable(stack: Stack, service: str, table: str) -> AsyncIterator[None]:
    """Have whoever writes to a table wait; it can be read."""
    async with past_security(stack, service) as database, database.transaction():
        await database.execute(f"lock table {table} in share mode")
        yield
