"""Settings of webhooks and of the audit log, read from the environment once, at start."""

from functools import cache

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WebhookSettings(BaseSettings):
    """How endpoints are sent events; a variable is `WEBHOOK_` and a name in capitals."""

    model_config = SettingsConfigDict(env_prefix="WEBHOOK_", extra="ignore", frozen=True)

    allow_loopback: bool = False
    """Whether endpoints may be on this machine, and so without TLS: for development and tests."""
    timeout_seconds: float = Field(default=15.0, gt=0)
    """How long an endpoint may take to answer."""
    first_retry_seconds: float = Field(default=5.0, gt=0)
    """How long after a first failure it is tried again; each time after that three times as long."""
    longest_retry_hours: float = Field(default=12.0, gt=0)
    give_up_hours: float = Field(default=72.0, gt=0)
    """For how long one delivery is tried, before the next one is."""
    disable_hours: float = Field(default=120.0, gt=0)
    """For how long an endpoint may fail, before it is disabled."""
    concurrency: int = Field(default=100, gt=0)
    """Endpoints that a process sends to at once; of each endpoint one event at a time."""


@cache
def webhook_settings() -> WebhookSettings:
    """Return the settings of this process."""
    return WebhookSettings()


class AuditSettings(BaseSettings):
    """The audit log; a variable is `AUDIT_` and a name in capitals."""

    model_config = SettingsConfigDict(env_prefix="AUDIT_", extra="ignore", frozen=True)

    retention_days: int = Field(default=400, ge=90, le=36500)
    """How long an entry is kept. Fewer than 90 days the database does not allow either."""


@cache
def audit_settings() -> AuditSettings:
    """Return the settings of this process."""
    return AuditSettings()
