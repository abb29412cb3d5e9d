"""The process target: a tenant's own databases and local processes of the services that hold what its customers are.

Its databases and roles are made as the platform's own are. The processes are the supervisor's: a step says what is
wanted, and is done when that is so.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

from chassis.messaging.broker import BrokerError, forget_groups
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.security import client_security
from chassis.persistence.migrations import upgrade
from chassis.service import Service
from deploy.prepare import Refused, create_database, create_roles
from deploy.roles import ROLES, login
from dotmac_contracts.envelope import Event
from dotmac_contracts.provisioning import RouteWithdrawn
from services.provisioning.domain.saga import Command
from services.provisioning.instances import DEDICATED, SUPERVISOR, instance_url, named, passwords, route_of
from services.provisioning.settings import deployment_settings
from services.provisioning.tables import cause_of

_READY_SECONDS = 2.0
_WANT = """
insert into instance as i (tenant_id, deployment_id, wanted) values ($1, $2, true)
on conflict (tenant_id) do update set wanted = true, deployment_id = excluded.deployment_id where not i.wanted
"""


class Process:
    """Processes on the machine on which provisioning runs."""

    dedicated = True

    def __init__(self) -> None:
        self._migrating = asyncio.Lock()  # Alembic knows one migration in a process at a time

    def refusal(self) -> str | None:
        """Refuse where provisioning may not create databases."""
        if not deployment_settings().server_url:
            return "no tenant gets processes of its own here: DEPLOYMENT_SERVER_URL is not set"
        return None

    def placement(self, tenant_id: UUID) -> str:
        """Return the name of the tenant's own place."""
        return f"process-{tenant_id}"

    async def do(self, service: Service, deployment: Any, command: Command) -> str | None:
        """Do one of the commands that are the target's; return what is wrong yet, or None."""
        tenant_id = deployment["tenant_id"]
        try:
            match command:
                case Command.CREATE_DATABASES:
                    await self._create_databases(service, tenant_id)
                case Command.MIGRATE:
                    await self._migrate(service, tenant_id)
                case Command.START_INSTANCES:
                    return await self._start(service, deployment)
                case Command.ASSIGN_ROUTE:
                    await self._assign_route(service, deployment)
                case Command.WITHDRAW_ROUTE:
                    await self._withdraw_route(service, deployment)
                case Command.STOP_INSTANCES:
                    return await self._stop(service, tenant_id)
                case Command.DROP_DATABASES:
                    await self._drop_databases(tenant_id)
                case _:
                    raise AssertionError(f"no recipe of this target has {command}")
        except (Refused, BrokerError, asyncpg.PostgresError) as error:
            return str(error)
        return None

    async def _create_databases(self, service: Service, tenant_id: UUID) -> None:
        async with _server() as connection:
            for name in DEDICATED:
                own = named(name, tenant_id)
                await create_roles(connection, passwords(service.settings, own))
                await create_database(connection, own)

    async def _migrate(self, service: Service, tenant_id: UUID) -> None:
        for name in DEDICATED:
            url = instance_url(service.settings, name, tenant_id, "owner")
            async with self._migrating:
                await upgrade(name, url)

    async def _start(self, service: Service, deployment: Any) -> str | None:
        tenant_id = deployment["tenant_id"]
        async with service.consumer_db.for_tenants([tenant_id]) as tx:
            await tx.execute(_WANT, tenant_id, deployment["deployment_id"])
            row = await tx.fetchrow("select ports, pids from instance where tenant_id = $1", tenant_id)
        assert row is not None
        service.wake(SUPERVISOR)
        if row["pids"].keys() != set(DEDICATED):
            return "its processes are not started yet"
        timeout = aiohttp.ClientTimeout(total=_READY_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for name, port in row["ports"].items():
                async with session.get(f"http://127.0.0.1:{port}/health/ready") as answer:
                    if answer.status != 200:
                        return f"{name} is not ready: {await answer.text()}"
        return None

    async def _assign_route(self, service: Service, deployment: Any) -> None:
        tenant_id = deployment["tenant_id"]
        async with service.consumer_db.for_tenants([tenant_id]) as tx:
            row = await tx.fetchrow(
                "update instance set routed = true, version = version + 1 where tenant_id = $1 returning *", tenant_id
            )
            assert row is not None, "its processes are started before"
            await _tell(tx, service, route_of(row), row["version"], deployment)

    async def _withdraw_route(self, service: Service, deployment: Any) -> None:
        tenant_id = deployment["tenant_id"]
        async with service.consumer_db.for_tenants([tenant_id]) as tx:
            row = await tx.fetchrow(
                "update instance set routed = false, version = version + 1 where tenant_id = $1 and routed"
                " returning version",
                tenant_id,
            )
            if row is not None:
                await _tell(tx, service, RouteWithdrawn(tenant_id=tenant_id), row["version"], deployment)

    async def _stop(self, service: Service, tenant_id: UUID) -> str | None:
        async with service.consumer_db.for_tenants([tenant_id]) as tx:
            pids = await tx.fetchval(
                "update instance set wanted = false where tenant_id = $1 returning pids", tenant_id
            )
        service.wake(SUPERVISOR)
        if pids:
            return f"processes run still: {', '.join(sorted(pids))}"
        settings = service.settings
        left = await forget_groups(
            settings.kafka_bootstrap_servers, f"-{tenant_id}", security=client_security(settings)
        )
        return f"consumer groups have members still: {', '.join(left)}" if left else None

    async def _drop_databases(self, tenant_id: UUID) -> None:
        async with _server() as connection:
            for name in DEDICATED:
                own = named(name, tenant_id)
                await connection.execute(f"drop database if exists dotmac_{own} with (force)")
                for role in ROLES:
                    await connection.execute(f"drop role if exists {login(own, role)}")


async def _tell(tx: Any, service: Service, event: Event, version: int, deployment: Any) -> None:
    outgoing = [Outgoing(event, version, cause_of(deployment))]
    await publish(tx, outgoing, source=service.source, clock=service.clock)


@asynccontextmanager
async def _server() -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Connect to the server of the tenants' own databases, as the user who may create them."""
    url = deployment_settings().server_url
    if not url:
        raise Refused("DEPLOYMENT_SERVER_URL is not set")
    connection = await asyncpg.connect(url.get_secret_value(), timeout=5)
    try:
        yield connection
    finally:
        await connection.close()
