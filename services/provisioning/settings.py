"""Settings of deployments, read from the environment once, at start."""

import os
from functools import cache
from pathlib import Path
from tempfile import gettempdir

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

_SOCKET = Path("/var/run/docker.sock")


class DeploymentSettings(BaseSettings):
    """How deployments are worked on; a variable is `DEPLOYMENT_` and a name in capitals."""

    model_config = SettingsConfigDict(env_prefix="DEPLOYMENT_", extra="ignore", frozen=True)

    at_once: int = Field(default=50, gt=0)
    """Deployments that run at once at each target; the others wait in a queue."""
    process_at_once: int = Field(default=2 * (os.cpu_count() or 1), gt=0)
    """The same at the target `process`, where all the work is this machine's: more at once would only be slower, each
    and all of them."""
    lease_seconds: float = Field(default=3.0, gt=0)
    """For how long a worker that is not heard of keeps a deployment, before another takes it over."""
    server_url: SecretStr | None = None
    """A PostgreSQL server for databases of tenants' own, as a user who may create roles and databases; without it, or
    where it is empty, no tenant has processes of its own."""
    customer_database_url: SecretStr | None = None
    billing_database_url: SecretStr | None = None
    """The databases that tenants share, as their owners; without them no tenant is moved."""
    log_directory: Path = Path(gettempdir())
    """Where such processes write their logs."""
    interpreters: dict[str, Path] = {}
    """The releases that such processes can be of, the newest first, each with the Python of the environment that it is
    installed in, as JSON; without any, they are of the release that provisioning itself is of."""
    settle_seconds: float = Field(default=2.0, ge=0)
    """How long an instance that was replaced is kept beside the one that came in its place: by then every gateway has
    heard of that one."""
    docker_host: str | None = Field(default=None, validation_alias="DOCKER_HOST")
    """A container engine that speaks the Docker API; without it the usual socket, if there is one."""
    image: str | None = Field(default=None, validation_alias="DOTMAC_IMAGE")
    """The platform's image, which tenants' own containers run."""
    images: dict[str, str] = {}
    """The releases that such containers can be of, the newest first, each with its image, as JSON; without any, they
    are of the one that the platform's image is of."""
    postgres_image: str = Field(default="docker.io/library/postgres:18", validation_alias="POSTGRES_IMAGE")
    installation: str | None = Field(default=None, pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
    """What tells this platform's containers from those of any other on the same engine."""
    networks: str = ""
    """Networks of the engine that the platform itself is in, with commas between: tenants' instances join them, and are
    reached in the first. Without any they are at ports of this machine's loopback address."""
    kafka_servers: str | None = None
    """Where Kafka is for these containers, if not where it is for provisioning."""
    jwks_url: str | None = None
    """Where the tokens' public keys are for them, if not where they are for provisioning."""
    otlp_endpoint: str | None = None
    """Where their spans go, if not where provisioning's do; nowhere if it is empty."""
    exports: str | None = None
    """The volume, or the folder on the engine's machine, into which they write the data of a tenant that leaves; by
    default the volume `dotmac-exports-` and the installation's name."""
    reconcile_seconds: float = Field(default=60.0, gt=0)
    """How often it is looked at whether the world is as the records say; what is not twice in turn is a drift."""

    def places(self, target: str) -> int:
        """Return how many deployments run at once at a target."""
        return min(self.at_once, self.process_at_once) if target == "process" else self.at_once

    @property
    def shared_networks(self) -> list[str]:
        """The networks that tenants' containers share with the platform."""
        return [name.strip() for name in self.networks.split(",") if name.strip()]

    @property
    def releases_in_images(self) -> dict[str, str]:
        """The image of each release, the newest first; that of the platform's image is its tag."""
        if self.images or not self.image:
            return self.images
        _, _, tag = self.image.rpartition("/")[2].partition("@")[0].partition(":")
        return {tag or "latest": self.image}

    @property
    def engine_url(self) -> str | None:
        """Where the container engine is."""
        return self.docker_host or (f"unix://{_SOCKET}" if _SOCKET.is_socket() else None)


@cache
def deployment_settings() -> DeploymentSettings:
    """Return the settings of this process."""
    return DeploymentSettings()
