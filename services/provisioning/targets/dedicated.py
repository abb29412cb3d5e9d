"""What targets share at which a tenant has databases and instances of its own; each says what is different there.

The databases and roles are made as the platform's own are. The instances are the supervisor's: a step says what is
wanted, and is done when that is so.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
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
from chassis.settings import Settings
from deploy.prepare import Refused, create_database, create_roles
from dotmac_contracts.envelope import Event
from dotmac_contracts.provisioning import RouteWithdrawn
from services.provisioning.domain.saga import Command
from services.provisioning.instances import (
    DEDICATED,
    InstanceError,
    addresses_of,
    instance_url,
    named,
    passwords,
    route_of,
)
from services.provisioning.supervisor import SUPERVISOR
from services.provisioning.tables import cause_of

_CONNECT_SECONDS = 5.0
_READY_SECONDS = 2.0
_WANT = """
insert into instance as i (tenant_id, deployment_id, target, wanted) values ($1, $2, $3, true)
on conflict (tenant_id) do update set wanted = true, deployment_id = excluded.deployment_id, target = excluded.target
where not i.wanted
"""
# Alembic knows one migration in a process at a time.
_MIGRATING = asyncio.Lock()


class Dedicated(ABC):
    """A place where a tenant has all that holds what its customers are to itself."""

    dedicated = True
    name: str
    parts: Sequence[str]
    """What runs there for a tenant, of what it is recorded."""

    @abstractmethod
    def refusal(self) -> str | None:
        """Return why no tenant can be deployed there by this installation; None if it can."""

    @abstractmethod
    async def prepare_server(self, settings: Settings, tenant_id: UUID) -> None:
        """Have the server run that the tenant's databases are on."""

    @abstractmethod
    async def server_url(self, settings: Settings, tenant_id: UUID) -> str:
        """Return the address of that server, as the user who may create databases."""

    @abstractmethod
    async def drop_databases(self, settings: Settings, tenant_id: UUID) -> None:
        """Remove the tenant's databases, with all that was made for them."""

    @asynccontextmanager
    async def connected(
        self, settings: Settings, tenant_id: UUID
    ) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Connect to that server, as that user."""
        connection = await asyncpg.connect(await self.server_url(settings, tenant_id), timeout=_CONNECT_SECONDS)
        try:
            yield connection
        finally:
            await connection.close()

    def placement(self, tenant_id: UUID) -> str:
        """Return the name of the tenant's own place."""
        return f"{self.name}-{tenant_id}"

    async def do(self, service: Service, deployment: Any, command: Command) -> str | None:
        """Do one of the commands that are the target's; return what is wrong yet, or None."""
        tenant_id = deployment["tenant_id"]
        try:
            match command:
                case Command.CREATE_DATABASES:
                    await self._create_databases(service.settings, tenant_id)
                case Command.MIGRATE:
                    await self._migrate(service.settings, tenant_id)
                case Command.START_INSTANCES:
                    return await self._start(service, deployment)
                case Command.ASSIGN_ROUTE:
                    await self._assign_route(service, deployment)
                case Command.WITHDRAW_ROUTE:
                    await self._withdraw_route(service, deployment)
                case Command.STOP_INSTANCES:
                    return await self._stop(service, tenant_id)
                case Command.DROP_DATABASES:
                    await self.drop_databases(service.settings, tenant_id)
                case _:
                    raise AssertionError(f"no recipe of this target has {command}")
        except (Refused, InstanceError, BrokerError, asyncpg.PostgresError) as error:
            return str(error)
        return None

    async def _create_databases(self, settings: Settings, tenant_id: UUID) -> None:
        await self.prepare_server(settings, tenant_id)
        async with self.connected(settings, tenant_id) as connection:
            for name in DEDICATED:
                own = named(name, tenant_id)
                await create_roles(connection, passwords(settings, own))
                await create_database(connection, own)

    async def _migrate(self, settings: Settings, tenant_id: UUID) -> None:
        server_url = await self.server_url(settings, tenant_id)
        for name in DEDICATED:
            async with _MIGRATING:
                await upgrade(name, instance_url(settings, server_url, name, tenant_id, "owner"))

    async def _start(self, service: Service, deployment: Any) -> str | None:
        tenant_id = deployment["tenant_id"]
        async with service.consumer_db.for_tenants([tenant_id]) as tx:
            await tx.execute(_WANT, tenant_id, deployment["deployment_id"], self.name)
            row = await tx.fetchrow("select * from instance where tenant_id = $1", tenant_id)
        assert row is not None
        service.wake(SUPERVISOR)
        if missing := [part for part in self.parts if not row["pids"].get(part)]:
            return f"{', '.join(missing)} did not start yet"
        timeout = aiohttp.ClientTimeout(total=_READY_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for name, address in addresses_of(row).items():
                async with session.get(f"{address}/health/ready") as answer:
                    if answer.status != 200:
                        return f"{name} is not ready: {await answer.text()}"
        return None

    async def _assign_route(self, service: Service, deployment: Any) -> None:
        tenant_id = deployment["tenant_id"]
        async with service.consumer_db.for_tenants([tenant_id]) as tx:
            row = await tx.fetchrow(
                "update instance set routed = true, on_hold = false, version = version + 1 where tenant_id = $1"
                " returning *",
                tenant_id,
            )
            assert row is not None, "its instances are started before"
            await tell(tx, service, route_of(row), row["version"], deployment)

    async def _withdraw_route(self, service: Service, deployment: Any) -> None:
        tenant_id = deployment["tenant_id"]
        async with service.consumer_db.for_tenants([tenant_id]) as tx:
            row = await tx.fetchrow(
                "update instance set routed = false, on_hold = false, version = version + 1"
                " where tenant_id = $1 and (routed or on_hold) returning version",
                tenant_id,
            )
            if row is not None:
                await tell(tx, service, RouteWithdrawn(tenant_id=tenant_id), row["version"], deployment)

    async def _stop(self, service: Service, tenant_id: UUID) -> str | None:
        async with service.consumer_db.for_tenants([tenant_id]) as tx:
            pids = await tx.fetchval(
                "update instance set wanted = false where tenant_id = $1 returning pids", tenant_id
            )
        service.wake(SUPERVISOR)
        if pids:
            return f"there run still: {', '.join(sorted(pids))}"
        settings = service.settings
        left = await forget_groups(
            settings.kafka_bootstrap_servers, f"-{tenant_id}", security=client_security(settings)
        )
        return f"consumer groups have members still: {', '.join(left)}" if left else None


async def tell(tx: Any, service: Service, event: Event, version: int, deployment: Any) -> None:
    """Publish what is so of a tenant's place now."""
    outgoing = [Outgoing(event, version, cause_of(deployment))]
    await publish(tx, outgoing, source=service.source, clock=service.clock)
