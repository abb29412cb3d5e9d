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
from chassis.persistence.migrations import ensure
from chassis.settings import Settings
from deploy.prepare import Refused, create_roles
from deploy.stack.forking import ForkServer
from deploy.stack.processes import Child, StackError, free_port, is_free
from services.provisioning.instances import (
    DEDICATED,
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
        self._forks: dict[str, ForkServer] = {}

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
            python = interpreter(self._deployments, release)
            for part in parts:
                taken, before = self._ports.values(), ports.get(part)
                usable = before is not None and before not in taken and is_free(before)
                port = before if before is not None and usable else free_port(taken)
                await self._begin(tenant_id, part, port, python)
        except (*LOST, Refused, StackError) as error:
            raise InstanceError(str(error) or repr(error)) from error
        return (await self.running())[tenant_id]

    async def stop(self, tenant_id: UUID, running: Mapping[str, Instance]) -> None:
        """Stop processes of a tenant."""
        await self._stop([(tenant_id, part) for part in running])

    async def get_ready(self) -> None:
        """Load what those of the newest release are forked from."""
        await self._forks_on(interpreter(self._deployments, None)).start()

    async def let_go(self) -> None:
        """Stop all of them."""
        await self._stop(list(self._children))
        await asyncio.gather(*(forks.stop() for forks in self._forks.values()))

    async def _stop(self, keys: list[tuple[UUID, str]]) -> None:
        await asyncio.gather(*(self._children[key].stop() for key in keys))
        for key in keys:
            del self._children[key], self._ports[key]

    def _forks_on(self, python: str) -> ForkServer:
        """Return what forks instances of a release; it stays for those of other tenants."""
        if python not in self._forks:
            log = self._deployments.log_directory / f"instances-{len(self._forks)}.log"
            self._forks[python] = ForkServer(log, passed_on(), python=python)
        return self._forks[python]

    async def _begin(self, tenant_id: UUID, part: str, port: int, python: str) -> None:
        service = service_of(part)
        own, server = named(service, tenant_id), self._deployments.server_url
        assert server, "there are none without it"
        url = server.get_secret_value()
        told = environment(self._settings, url, service, tenant_id)
        child = Child(
            own,
            [python, "-m", f"services.{service}"],
            {**passed_on(), **told, "HOST": LOOPBACK, "PORT": str(port)},
            self._deployments.log_directory / f"{named(part, tenant_id)}.log",
            death_signal=signal.SIGKILL,
            forks=self._forks_on(python),
        )
        # Before it is there: it may be given up meanwhile, and its port is nobody else's.
        self._children[tenant_id, part], self._ports[tenant_id, part] = child, port
        try:
            connection = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
            try:
                await create_roles(connection, passwords(self._settings, own))  # SECRET_KEY may have changed
            finally:
                await close(connection)
            if not self._deployments.interpreters:  # its release is provisioning's own, which may be a new one
                await ensure(service, instance_url(self._settings, url, service, tenant_id, "owner"))
            await child.start()
        except BaseException:
            await self._stop([(tenant_id, part)])
            raise
        child.keep_alive(lambda message: log.warning("instance_ended", tenant_id=str(tenant_id), message=message))
        log.info("instance_started", tenant_id=str(tenant_id), part=part, port=port)


def interpreter(settings: DeploymentSettings, release: str | None) -> str:
    """Return the Python that processes of a release run on; InstanceError if that is not here."""
    known = settings.interpreters
    if not known:
        return sys.executable
    if release is None:
        return str(next(iter(known.values())))
    if release not in known:
        raise InstanceError(f"there is no release {release} here: DEPLOYMENT_INTERPRETERS does not name it")
    return str(known[release])
