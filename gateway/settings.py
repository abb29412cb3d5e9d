"""Settings of the gateway, read from the environment once, at start."""

from pydantic_settings import BaseSettings, SettingsConfigDict


class GatewaySettings(BaseSettings):
    """Where the services are, and what the gateway lets through."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: int = 8000
    tenant_url: str = "http://127.0.0.1:8101"
    customer_url: str = "http://127.0.0.1:8102"
    billing_url: str = "http://127.0.0.1:8103"
    provisioning_url: str = "http://127.0.0.1:8104"
    jwks_url: str = "http://127.0.0.1:8101/.well-known/jwks.json"
    redis_url: str | None = None
    log_level: str = "INFO"
    otlp_endpoint: str | None = None
    rate_limit: str = "1000/second"
    """Requests a principal, or an address without a token, may send."""
    largest_body: int = 2 * 1024 * 1024
    largest_import: int = 512 * 1024 * 1024
    upstream_seconds: float = 60.0
    """How long a service may take until its answer begins."""
    concurrency: int = 500
    """Requests under way; more are answered 503."""
