"""The process target: databases on a server that is given, and local processes on the machine of provisioning."""

from uuid import UUID

from chassis.settings import Settings
from deploy.prepare import Refused
from deploy.roles import ROLES, login
from services.provisioning.instances import DEDICATED, named
from services.provisioning.processes import Processes
from services.provisioning.settings import deployment_settings
from services.provisioning.targets.dedicated import Dedicated


class Process(Dedicated):
    """Processes on the machine on which provisioning runs."""

    name = "process"
    parts = Processes.parts

    def refusal(self) -> str | None:
        """Refuse where provisioning may not create databases."""
        if not deployment_settings().server_url:
            return "no tenant gets processes of its own here: DEPLOYMENT_SERVER_URL is not set"
        return None

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
