"""The process target: databases on a server that is given, and local processes on the machine of provisioning."""

import asyncio
import os
import signal
from collections.abc import Sequence
from importlib.metadata import version
from uuid import UUID

from chassis.settings import Settings
from deploy.prepare import Refused
from deploy.roles import ROLES, login
from deploy.stack.processes import Child, StackError
from dotmac_contracts.provisioning import DEDICATED
from services.provisioning.instances import InstanceError, named, passed_on
from services.provisioning.instances.processes import Processes, forks_of
from services.provisioning.settings import deployment_settings
from services.provisioning.targets.dedicated import Dedicated

_TURNS = asyncio.Semaphore(os.cpu_count() or 1)
"""As many databases are migrated at once as there are processors: who comes first goes on while others wait."""


class Process(Dedicated):
    """Processes on the machine on which provisioning runs."""

    name = "process"
    parts = Processes.parts

    def refusal(self) -> str | None:
        """Refuse where provisioning may not create databases."""
        if not deployment_settings().server_url:
            return "no tenant gets processes of its own here: DEPLOYMENT_SERVER_URL is not set"
        return None

    def releases(self) -> Sequence[str]:
        """Return those that are installed here, or that of provisioning itself."""
        return list(deployment_settings().interpreters) or [version("dotmac-platform")]

    async def migrate(self, url: str, service: str, release: str | None) -> None:
        """Run the migrations of a release."""
        forks, name = forks_of(release), f"migrations-{service}"
        command = [forks.python, "-m", "chassis.persistence.migrations", service]
        log = deployment_settings().log_directory / f"{name}.log"
        told = {**passed_on(), "MIGRATION_DATABASE_URL": url}
        try:
            async with _TURNS:
                await Child(name, command, told, log, death_signal=signal.SIGKILL, forks=forks).run()
        except StackError as error:
            raise InstanceError(str(error)) from error

    async def prepare_server(self, _settings: Settings, _tenant_id: UUID) -> None:
        """Nothing: it is there for all."""

    async def server_url(self, _settings: Settings, _tenant_id: UUID) -> str:
        """Return the address that is given."""
        url = deployment_settings().server_url
        if not url:
            raise Refused("DEPLOYMENT_SERVER_URL is not set")
        return url.get_secret_value()

    async def drop_databases(self, settings: Settings, tenant_id: UUID) -> None:
        """Drop the tenant's databases and roles."""
        async with self.connected(settings, tenant_id) as connection:
            for name in DEDICATED:
                own = named(name, tenant_id)
                await connection.execute(f"drop database if exists dotmac_{own} with (force)")
                for role in ROLES:
                    await connection.execute(f"drop role if exists {login(own, role)}")
