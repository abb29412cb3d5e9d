"""Settings of a service, read from the environment once, at start."""

from pathlib import Path
from typing import Literal, Self
from uuid import UUID

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_MINIMUM_SECRET = 32
_DEVELOPMENT_SECRET = "development-only-secret-of-more-than-32-characters"


class TelemetrySettings(BaseSettings):
    """What every process, the gateway as well, needs to know to tell of itself."""

    log_level: str = "INFO"
    otlp_endpoint: str | None = None
    """A collector's address, such as http://127.0.0.1:4318; without one there are no spans."""
    trace_ratio: float = Field(default=1.0, ge=0, le=1)
    """The share of the requests that are traced, decided at the gateway."""


class KafkaSettings(BaseSettings):
    """How every client of the broker reaches it."""

    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ca_file: Path | None = None
    """The authority that signed the brokers' certificates, as PEM; the system's own without one."""

    @model_validator(mode="after")
    def _signs_in(self) -> Self:
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError("KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD are needed to sign in to Kafka")
        return self


class Settings(TelemetrySettings, KafkaSettings):
    """What every service needs to know of the world around it; a variable is a name in capitals."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    environment: Literal["development", "test", "production"] = "development"
    secret_key: SecretStr = SecretStr(_DEVELOPMENT_SECRET)
    secret_key_previous: SecretStr | None = None
    """What SECRET_KEY was before: still opens what it sealed, and seals nothing more."""
    jwt_secret_key: SecretStr = SecretStr(_DEVELOPMENT_SECRET)
    """What access tokens are signed with; after it, with commas between, others whose public keys are published too:
    the former one while tokens of it live, the next one before it signs."""
    database_url: str = ""
    """The service's own database as its API role, which row-level security confines to one tenant."""
    consumer_database_url: str = ""
    """The same database as the consumer role, confined to the tenants of a batch."""
    relay_database_url: str = ""
    """The same database as the relay role, which sees outbox and journal only."""
    migration_database_url: str = ""
    """The same database as its owner; only migrations use it."""
    kafka_idempotence: bool = True
    """Off only for a broker that has no idempotent producer."""
    kafka_session_seconds: float = Field(default=6, ge=1.5)
    """A consumer that was not heard of for so long is dead, and others get its partitions. The broker has a least value
    of its own (`group.min.session.timeout.ms`), which is this one by default."""
    host: str = "127.0.0.1"
    port: int = 8000
    tls_certificate_file: Path | None = None
    """Certificate chain to serve HTTPS with; plain HTTP without one."""
    tls_key_file: Path | None = None
    trusted_proxies: str | None = None
    """Addresses whose X-Forwarded-For and X-Forwarded-Proto are believed, comma-separated."""
    drain_seconds: float = 5.0
    """How long a process that is to stop waits for clients to give up their idle connections; the gateway does so after
    three seconds."""
    roles: str = "api,consumer,relay"
    """Which of the service's three roles this process takes."""
    dedicated_to: UUID | None = None
    """The tenant that this instance of the service works for alone; without one it works for all that have none."""
    jwks_url: str = "http://127.0.0.1:8101/.well-known/jwks.json"
    gateway_url: str = "http://127.0.0.1:8000"
    redis_url: str | None = None
    platform_currency: str = Field(default="USD", pattern="^[A-Z]{3}$")
    """ISO 4217 code in which the platform bills its tenants; settled when billing starts for the first time."""
    export_directory: Path | None = None
    """Where the data of tenants that leave is written; without it none can."""
    bootstrap_admin_email: str | None = None
    bootstrap_admin_password: SecretStr | None = None

    @property
    def sealing_secrets(self) -> list[str]:
        """The secrets that open what is sealed; the first one seals."""
        secrets = (self.secret_key, self.secret_key_previous)
        return [secret.get_secret_value() for secret in secrets if secret is not None]

    @property
    def signing_secrets(self) -> list[str]:
        """The secrets whose keys are published; the first one signs."""
        return [secret.strip() for secret in self.jwt_secret_key.get_secret_value().split(",")]

    @model_validator(mode="after")
    def _secrets_are_real(self) -> Self:
        previous = self.secret_key_previous
        for name, value in (
            ("secret_key", self.secret_key.get_secret_value()),
            *([("secret_key_previous", previous.get_secret_value())] if previous else []),
            *(("jwt_secret_key", secret) for secret in self.signing_secrets),
        ):
            if len(value) < _MINIMUM_SECRET:
                raise ValueError(f"{name.upper()} needs at least {_MINIMUM_SECRET} characters")
            if self.environment != "development" and value == _DEVELOPMENT_SECRET:
                raise ValueError(f"{name.upper()} must be set outside development")
        return self
