"""Instances as local processes: children of the supervisor, which end with it, however it ends.

So there is none that nobody knows, and what is recorded of processes of a supervisor that is gone is only history.
"""

import asyncio
import signal
import sys
from collections.abc import Collection, Mapping
from uuid import UUID

import asyncpg
import structlog

from chassis.persistence.database import LOST, close
from chassis.settings import Settings
from deploy.prepare import Refused, create_roles
from deploy.stack.processes import Child, StackError, free_port, is_free
from services.provisioning.instances import (
    DEDICATED,
    LOOPBACK,
    STARTING,
    Instance,
    InstanceError,
    environment,
    named,
    passed_on,
    passwords,
)
from services.provisioning.settings import DeploymentSettings

log = structlog.get_logger()

_CONNECT_SECONDS = 2.0


class Processes:
    """The processes of this supervisor."""

    parts = DEDICATED

    def __init__(self, settings: Settings, deployments: DeploymentSettings) -> None:
        self._settings = settings
        self._deployments = deployments
        self._children: dict[tuple[UUID, str], Child] = {}
        self._ports: dict[tuple[UUID, str], int] = {}

    async def running(self) -> dict[UUID, dict[str, Instance]]:
        """Return those that were started; one that ended is about to start again."""
        found: dict[UUID, dict[str, Instance]] = {}
        for (tenant_id, name), child in self._children.items():
            port = self._ports[tenant_id, name]
            found.setdefault(tenant_id, {})[name] = Instance(child.pid or STARTING, LOOPBACK, port)
        return found

    async def start(self, tenant_id: UUID, parts: Collection[str], ports: Mapping[str, int]) -> dict[str, Instance]:
        """Start processes of a tenant, each at the port where it was if that is free."""
        try:
            for name in parts:
                taken, before = self._ports.values(), ports.get(name)
                usable = before is not None and before not in taken and is_free(before)
                await self._begin(tenant_id, name, before if before is not None and usable else free_port(taken))
        except (*LOST, Refused, StackError) as error:
            raise InstanceError(str(error) or repr(error)) from error
        return (await self.running())[tenant_id]

    async def stop(self, tenant_id: UUID, running: Mapping[str, Instance]) -> None:
        """Stop processes of a tenant."""
        await self._stop([(tenant_id, name) for name in running])

    async def let_go(self) -> None:
        """Stop all of them."""
        await self._stop(list(self._children))

    async def _stop(self, keys: list[tuple[UUID, str]]) -> None:
        await asyncio.gather(*(self._children[key].stop() for key in keys))
        for key in keys:
            del self._children[key], self._ports[key]

    async def _begin(self, tenant_id: UUID, name: str, port: int) -> None:
        own, server = named(name, tenant_id), self._deployments.server_url
        assert server, "there are none without it"
        url = server.get_secret_value()
        told = environment(self._settings, url, name, tenant_id)
        child = Child(
            own,
            [sys.executable, "-m", f"services.{name}"],
            {**passed_on(), **told, "HOST": LOOPBACK, "PORT": str(port)},
            self._deployments.log_directory / f"{own}.log",
            death_signal=signal.SIGKILL,
        )
        # Before it is there: it may be given up meanwhile, and its port is nobody else's.
        self._children[tenant_id, name], self._ports[tenant_id, name] = child, port
        try:
            connection = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
            try:
                await create_roles(connection, passwords(self._settings, own))  # SECRET_KEY may have changed
            finally:
                await close(connection)
            await child.start()
        except BaseException:
            await self._stop([(tenant_id, name)])
            raise
        child.keep_alive(lambda message: log.warning("instance_ended", tenant_id=str(tenant_id), message=message))
        log.info("instance_started", tenant_id=str(tenant_id), service=name, port=port)
