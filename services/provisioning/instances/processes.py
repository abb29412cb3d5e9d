"""Instances as local processes: children of the supervisor, which end with it, however it ends.

So there is none that nobody knows, and what is recorded of processes of a supervisor that is gone is only history.
"""

import asyncio
import signal
import sys
from collections.abc import Collection, Mapping
from functools import cache
from uuid import UUID

import asyncpg
import structlog

from chassis.persistence.database import LOST, close
from chassis.persistence.migrations import ensure
from chassis.settings import Settings
from deploy.prepare import Refused, create_roles
from deploy.stack.forking import ForkServer
from deploy.stack.processes import Child, StackError, free_port, is_free
from dotmac_contracts.provisioning import DEDICATED
from services.provisioning.instances import (
    LOOPBACK,
    STARTING,
    Instance,
    InstanceError,
    environment,
    instance_url,
    named,
    passed_on,
    passwords,
    service_of,
    together,
)
from services.provisioning.settings import DeploymentSettings, deployment_settings

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
        for (tenant_id, part), child in self._children.items():
            port = self._ports[tenant_id, part]
            found.setdefault(tenant_id, {})[part] = Instance(child.pid or STARTING, LOOPBACK, port)
        return found

    async def start(
        self, tenant_id: UUID, parts: Collection[str], ports: Mapping[str, int], release: str | None
    ) -> dict[str, Instance]:
        """Start processes of a tenant, each at the port where it was if that is free."""
        try:
            forks = forks_of(release)
            chosen: dict[str, int] = {}
            for part in parts:
                taken, before = {*self._ports.values(), *chosen.values()}, ports.get(part)
                usable = before is not None and before not in taken and is_free(before)
                chosen[part] = before if before is not None and usable else free_port(taken)
            for part, port in chosen.items():
                # Before it is there: it may be given up meanwhile, and its port is nobody else's.
                self._ports[tenant_id, part] = port
                self._children[tenant_id, part] = self._child(tenant_id, part, forks)
            await together(*(self._begin(tenant_id, part) for part in parts))
        except (*LOST, Refused, StackError) as error:
            raise InstanceError(str(error) or repr(error)) from error
        return (await self.running())[tenant_id]

    async def stop(self, tenant_id: UUID, running: Mapping[str, Instance]) -> None:
        """Stop processes of a tenant."""
        await self._stop([(tenant_id, part) for part in running])

    async def get_ready(self) -> None:
        """Load what those of the newest release are forked from."""
        try:
            await forks_of(None).start()
        except OSError as error:
            raise InstanceError(str(error)) from error

    async def let_go(self) -> None:
        """Stop all of them."""
        await self._stop(list(self._children))

    async def _stop(self, keys: list[tuple[UUID, str]]) -> None:
        await asyncio.gather(*(self._children[key].stop() for key in keys))
        for key in keys:
            del self._children[key], self._ports[key]

    def _child(self, tenant_id: UUID, part: str, forks: ForkServer) -> Child:
        service = service_of(part)
        own = environment(self._settings, self._server_url, service, tenant_id)
        at = {"HOST": LOOPBACK, "PORT": str(self._ports[tenant_id, part])}
        return Child(
            named(part, tenant_id),
            [forks.python, "-m", f"services.{service}"],
            {**passed_on(), **own, **at},
            self._deployments.log_directory / f"{named(part, tenant_id)}.log",
            death_signal=signal.SIGKILL,
            forks=forks,
        )

    async def _begin(self, tenant_id: UUID, part: str) -> None:
        service, url = service_of(part), self._server_url
        child = self._children[tenant_id, part]
        try:
            connection = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
            try:
                # SECRET_KEY may have changed.
                await create_roles(connection, passwords(self._settings, named(service, tenant_id)))
            finally:
                await close(connection)
            if not self._deployments.interpreters:  # its release is provisioning's own, which may be a new one
                await ensure(service, instance_url(self._settings, url, service, tenant_id, "owner"))
            await child.start()
        except BaseException:
            await self._stop([(tenant_id, part)])
            raise
        child.keep_alive(lambda message: log.warning("instance_ended", tenant_id=str(tenant_id), message=message))
        log.info("instance_started", tenant_id=str(tenant_id), part=part, port=self._ports[tenant_id, part])

    @property
    def _server_url(self) -> str:
        assert self._deployments.server_url, "there are none without it"
        return self._deployments.server_url.get_secret_value()


def forks_of(release: str | None) -> ForkServer:
    """Return what forks the processes of a release, or of the newest; InstanceError if that is not here."""
    known = deployment_settings().interpreters
    if not known:
        return _fork_server("own", sys.executable)
    release = next(iter(known)) if release is None else release
    if release not in known:
        raise InstanceError(f"there is no release {release} here: DEPLOYMENT_INTERPRETERS does not name it")
    return _fork_server(release, str(known[release]))


@cache
def _fork_server(release: str, python: str) -> ForkServer:
    """Return what stays for those of all tenants."""
    log = deployment_settings().log_directory / f"fork-server-{release}.log"
    return ForkServer(log, passed_on(), python=python)
