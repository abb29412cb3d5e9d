"""Settings of the gateway, read from the environment once, at start."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode, SettingsConfigDict

from chassis.settings import KafkaSettings, TelemetrySettings
from gateway.limits import Quota

QuotaSetting = Annotated[Quota, NoDecode, BeforeValidator(Quota.parse)]
"""Written as `100/second`, `6000/minute`, `100000/hour` or `1000000/day`."""


class GatewaySettings(TelemetrySettings, KafkaSettings):
    """Where the services are, and what the gateway lets through."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: int = 8000
    tls_certificate_file: Path | None = None
    """Certificate chain to serve HTTPS with; plain HTTP without one."""
    tls_key_file: Path | None = None
    trusted_proxies: str | None = None
    """Addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are believed, comma-separated; * for all."""
    cors_origins: str | None = None
    """Origins whose pages may call the API from a browser, comma-separated; none by default."""
    # Of each service one address, or several with commas between: when one takes no connection, the next is asked.
    tenant_url: str = "http://127.0.0.1:8101"
    customer_url: str = "http://127.0.0.1:8102"
    billing_url: str = "http://127.0.0.1:8103"
    provisioning_url: str = "http://127.0.0.1:8104"
    integration_url: str = "http://127.0.0.1:8105"
    jwks_url: str = "http://127.0.0.1:8101/.well-known/jwks.json"
    redis_url: str | None = None
    """Where several gateways share their rate limits; without it each counts for itself."""
    rate_limit: QuotaSetting = Quota(1000, 1.0)
    """What a principal may send."""
    tenant_rate_limit: QuotaSetting = Quota(3000, 1.0)
    """What all principals of a tenant may send together."""
    address_rate_limit: QuotaSetting = Quota(3000, 1.0)
    """What may come from a client's address: an IPv4 address, or the /64 network of an IPv6 address."""
    public_rate_limit: QuotaSetting = Quota(100, 1.0)
    """What an address may send to the operations that need no token, such as signing in."""
    sign_up_rate_limit: QuotaSetting = Quota(10, 3600.0)
    """How often an address may sign an ISP up."""
    largest_body: int = 2 * 1024 * 1024
    largest_import: int = 512 * 1024 * 1024
    upstream_seconds: float = 60.0
    """How long a service may take until its answer begins, and then from one piece of it to the next."""
    import_seconds: float = 3600.0
    """The same for the operations that take in a file, upload included."""
    concurrency: int = 250
    """Requests under way to one service; more are answered 503."""
    streams: int = 2000
    """Answers that go on, in all; they don't count among the requests under way. More are answered 503."""
    tenant_streams: int = 20
    """Those of one tenant; more are answered 429."""
    breaker_failures: int = 5
    """Failures of a service in a row after which it is left alone for a while."""
    breaker_seconds: float = 1.0
    """How long that is the first time; it doubles with each probe that fails."""
