"""Settings of deployments, read from the environment once, at start."""

from functools import cache
from pathlib import Path
from tempfile import gettempdir

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class DeploymentSettings(BaseSettings):
    """How deployments are worked on; a variable is `DEPLOYMENT_` and a name in capitals."""

    model_config = SettingsConfigDict(env_prefix="DEPLOYMENT_", extra="ignore", frozen=True)

    at_once: int = Field(default=50, gt=0)
    """Deployments that run at once at each target; the others wait in a queue."""
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
    reconcile_seconds: float = Field(default=60.0, gt=0)
    """How often it is looked at whether the world is as the records say; what is not twice in turn is a drift."""


@cache
def deployment_settings() -> DeploymentSettings:
    """Return the settings of this process."""
    return DeploymentSettings()
