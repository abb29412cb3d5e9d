"""The container target: a network, a database server and instances of a tenant's own, in containers."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from chassis.settings import Settings
from services.provisioning.instances.containers import Containers
from services.provisioning.settings import deployment_settings
from services.provisioning.targets.dedicated import Dedicated


class Container(Dedicated):
    """Containers of an engine that provisioning reaches."""

    name = "container"
    parts = Containers.parts

    def refusal(self) -> str | None:
        """Refuse where there is no engine, or nothing is known to run on it."""
        settings = deployment_settings()
        if not settings.engine_url:
            reason = "DOCKER_HOST is not set"
        elif not settings.releases_in_images:
            reason = "DOTMAC_IMAGE is not set"
        elif not settings.installation:
            reason = "DEPLOYMENT_INSTALLATION is not set"
        elif settings.engine_url.startswith("unix:") and not Path(urlsplit(settings.engine_url).path).is_socket():
            reason = f"there is no engine at {settings.engine_url}"
        else:
            return None
        return f"no tenant gets containers of its own here: {reason}"

    def releases(self) -> Sequence[str]:
        """Return those of which there are images."""
        return list(deployment_settings().releases_in_images)

    async def migrate(self, url: str, service: str, release: str | None) -> None:
        """Run the migrations of a release: here, if it is the newest, which provisioning is of itself."""
        if release in (None, self.releases()[0]):
            await super().migrate(url, service, release)

    async def prepare_server(self, settings: Settings, tenant_id: UUID) -> None:
        """Have the tenant's own server run."""
        await Containers(settings, deployment_settings()).prepare_database(tenant_id)

    async def server_url(self, settings: Settings, tenant_id: UUID) -> str:
        """Return where it is now."""
        return await Containers(settings, deployment_settings()).server_url(tenant_id)

    async def drop_databases(self, settings: Settings, tenant_id: UUID) -> None:
        """Remove the server with its data, and the network."""
        await Containers(settings, deployment_settings()).remove(tenant_id)
