"""Settings of a service, read from the environment once, at start."""

from typing import Literal, Self

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_MINIMUM_SECRET = 32
_DEVELOPMENT_SECRET = "development-only-secret-of-more-than-32-characters"


class Settings(BaseSettings):
    """What every service needs to know of the world around it; a variable is a name in capitals."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    environment: Literal["development", "test", "production"] = "development"
    secret_key: SecretStr = SecretStr(_DEVELOPMENT_SECRET)
    jwt_secret_key: SecretStr = SecretStr(_DEVELOPMENT_SECRET)
    database_url: str = ""
    """The service's own database as its API role, which row-level security confines to one tenant."""
    consumer_database_url: str = ""
    """The same database as the consumer role, confined to the tenants of a batch."""
    relay_database_url: str = ""
    """The same database as the relay role, which sees outbox and journal only."""
    migration_database_url: str = ""
    """The same database as its owner; only migrations use it."""
    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    kafka_idempotence: bool = True
    """Off only for a broker that has no idempotent producer."""
    host: str = "127.0.0.1"
    port: int = 8000
    roles: str = "api,consumer,relay"
    """Which of the service's three roles this process takes."""
    jwks_url: str = "http://127.0.0.1:8101/.well-known/jwks.json"
    gateway_url: str = "http://127.0.0.1:8000"
    otlp_endpoint: str | None = None
    redis_url: str | None = None
    log_level: str = "INFO"
    bootstrap_admin_email: str | None = None
    bootstrap_admin_password: SecretStr | None = None

    @model_validator(mode="after")
    def _secrets_are_real(self) -> Self:
        for name in ("secret_key", "jwt_secret_key"):
            value = getattr(self, name).get_secret_value()
            if len(value) < _MINIMUM_SECRET:
                raise ValueError(f"{name.upper()} needs at least {_MINIMUM_SECRET} characters")
            if self.environment != "development" and value == _DEVELOPMENT_SECRET:
                raise ValueError(f"{name.upper()} must be set outside development")
        return self
