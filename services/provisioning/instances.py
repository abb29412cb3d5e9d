"""The tenants' own processes: one supervisor of the platform has them run as the records say.

They are its children and end with it, however it ends; the next one starts them anew. So there is none that nobody
knows, and what is recorded of processes of a supervisor that is gone is no more than history.
"""

import asyncio
import base64
import hmac
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import LOST, close
from chassis.service import Service
from chassis.settings import Settings
from chassis.worker import Worker
from deploy.prepare import Refused, create_roles, database_url
from deploy.roles import ROLES, login
from deploy.stack.processes import Child, StackError, free_port, is_free
from dotmac_contracts.provisioning import RouteAssigned
from services.provisioning.settings import DeploymentSettings, deployment_settings

log = structlog.get_logger()

DEDICATED = ("customer", "billing")
"""The services that a tenant has instances of its own of."""
SUPERVISOR = "instances"
"""The worker's name."""
_LOCK = 7_305_811_009  # advisory: one supervisor at a time
_POLL_SECONDS = 0.5
_LOST_SECONDS = 2.0
_STARTING = 0
"""In place of the process id of one that is about to start."""


def named(service: str, tenant_id: UUID) -> str:
    """Return by what the databases and roles of a tenant's instance are known, in place of the service's name."""
    return f"{service}_{tenant_id.hex}"


def passwords(settings: Settings, name: str) -> dict[str, str]:
    """Return the passwords of an instance's roles. They follow from SECRET_KEY, so that none is kept anywhere."""
    secret = settings.secret_key.get_secret_value().encode()

    def password(role: str) -> str:
        digest = hmac.digest(secret, f"the database role {role}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    return {role: password(role) for role in (login(name, each) for each in ROLES)}


def instance_url(settings: Settings, service: str, tenant_id: UUID, role: str) -> str:
    """Return the address of the database of a tenant's instance, as one of its roles."""
    server, name = deployment_settings().server_url, named(service, tenant_id)
    assert server, "nothing is deployed without it"
    return database_url(server.get_secret_value(), name, role, passwords(settings, name)[login(name, role)])


def route_of(row: Any) -> RouteAssigned:
    """Return where a tenant's instances are, to be told."""
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in row["ports"].items()}
    return RouteAssigned(tenant_id=row["tenant_id"], deployment_id=row["deployment_id"], addresses=addresses)


class Supervisor(Worker):
    """Starts the processes that are wanted, and stops those that are not."""

    def __init__(self, service: Service, settings: DeploymentSettings) -> None:
        super().__init__(SUPERVISOR, self._look, poll_seconds=_POLL_SECONDS)
        self._service = service
        self._settings = settings
        self._children: dict[tuple[UUID, str], Child] = {}
        self._connection: asyncpg.Connection[Any] | None = None
        self._leads = False

    async def stop(self) -> None:
        """Stop all of them."""
        await super().stop()
        await self._stop(list(self._children))
        if self._connection is not None:
            await close(self._connection)

    async def _look(self) -> bool:
        if not await self._is_leader():
            await self._stop(list(self._children))
            return False
        async with self._service.consumer_db.unscoped() as tx:
            rows = {
                row["tenant_id"]: row for row in await tx.fetch("select * from instance where wanted or pids <> '{}'")
            }
        await self._stop([key for key in self._children if key[0] not in rows or not rows[key[0]]["wanted"]])
        for tenant_id, row in rows.items():
            try:
                await self._see_to(row, {port for each in rows.values() for port in each["ports"].values()})
            except (*LOST, Refused, StackError) as error:  # what one tenant lacks is no other's trouble
                log.warning("instances_not_seen_to", tenant_id=str(tenant_id), error=str(error) or repr(error))
        return False

    async def _is_leader(self) -> bool:
        """Whether no other process supervises; the lock lives as long as the connection."""
        try:
            if self._connection is None:
                url = self._service.settings.consumer_database_url
                self._leads = False
                self._connection = await asyncpg.connect(
                    url, timeout=_LOST_SECONDS, server_settings={"application_name": "provisioning-supervisor"}
                )
            if self._leads:
                await self._connection.execute("select 1", timeout=_LOST_SECONDS)
            else:
                self._leads = await self._connection.fetchval("select pg_try_advisory_lock($1)", _LOCK)
        except LOST:
            # The processes stay: the database is away for them as well, and nobody else can take the lead meanwhile.
            if self._connection is not None:
                await close(self._connection)
                self._connection = None
            raise
        return self._leads

    async def _see_to(self, row: Any, taken: set[int]) -> None:
        """Have a tenant's processes be as they are wanted, and record which they are."""
        tenant_id = row["tenant_id"]
        missing = [name for name in DEDICATED if row["wanted"] and (tenant_id, name) not in self._children]
        if missing:
            ports = dict(row["ports"])
            for name in missing:
                if name not in ports or not is_free(ports[name]):
                    ports[name] = free_port(taken | set(ports.values()))
            # Before they are there: who wants them no more waits for those that are recorded to be gone.
            starting = {**row["pids"], **dict.fromkeys(missing, _STARTING)}
            row = await self._record(row, ports, starting)
            if row is None:
                return
            for name in missing:
                self._children[tenant_id, name] = await self._started(tenant_id, name, ports[name])
        own = {name: child for (tenant, name), child in self._children.items() if tenant == tenant_id}
        pids = {name: child.pid or _STARTING for name, child in own.items()}
        if pids != row["pids"]:
            await self._record(row, row["ports"], pids)

    async def _record(self, row: Any, ports: Mapping[str, int], pids: Mapping[str, int]) -> Any:
        """Record a tenant's processes, and tell of other ports if they are routed; None if they are not wanted now."""
        moved = row["routed"] and ports != row["ports"]
        async with self._service.consumer_db.for_tenants([row["tenant_id"]]) as tx:
            now = await tx.fetchrow(
                "update instance set ports = $2, pids = $3::jsonb, version = version + $4 where tenant_id = $1"
                " and (wanted or $3::jsonb = '{}') returning *",
                row["tenant_id"],
                ports,
                pids,
                int(moved),
            )
            if moved and now is not None:
                told = [Outgoing(route_of(now), now["version"])]
                await publish(tx, told, source=self._service.source, clock=self._service.clock)
        return now

    async def _started(self, tenant_id: UUID, name: str, port: int) -> Child:
        own, settings = named(name, tenant_id), self._service.settings
        server = self._settings.server_url
        assert server, "there is no supervisor without it"
        connection = await asyncpg.connect(server.get_secret_value(), timeout=_LOST_SECONDS)
        try:
            await create_roles(connection, passwords(settings, own))  # SECRET_KEY may have changed
        finally:
            await close(connection)
        child = Child(
            own,
            [sys.executable, "-m", f"services.{name}"],
            self._environment(name, tenant_id, port),
            self._settings.log_directory / f"{own}.log",
            death_signal=signal.SIGKILL,
        )
        await child.start()
        child.keep_alive(lambda message: log.warning("instance_ended", tenant_id=str(tenant_id), message=message))
        log.info("instance_started", tenant_id=str(tenant_id), service=name, port=port)
        return child

    def _environment(self, name: str, tenant_id: UUID, port: int) -> Mapping[str, str]:
        """Return the platform's settings, but for those that are provisioning's own."""
        settings = self._service.settings
        urls = {
            f"{prefix}DATABASE_URL": instance_url(settings, name, tenant_id, role)
            for prefix, role in (("", "api"), ("CONSUMER_", "consumer"), ("RELAY_", "relay"))
        }
        passed = {key: value for key, value in os.environ.items() if not key.startswith(("DEPLOYMENT_", "MIGRATION_"))}
        own = {"HOST": "127.0.0.1", "PORT": str(port), "ROLES": "api,consumer,relay", "DEDICATED_TO": str(tenant_id)}
        return {**passed, **urls, **own}

    async def _stop(self, keys: list[tuple[UUID, str]]) -> None:
        await asyncio.gather(*(self._children[key].stop() for key in keys))
        for key in keys:
            del self._children[key]
