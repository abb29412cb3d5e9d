"""The pooled target: tenants share the services and their databases, and rows keep them apart."""

from uuid import UUID

import aiohttp

from chassis.security.scopes import scopes_of
from chassis.security.tokens import TokenIssuer
from chassis.settings import Settings
from chassis.telemetry import traces

PLACEMENT = "cell-1"
_WORKSPACES = ("/api/v1/workspace", "/api/v1/billing-workspace")


async def verify(settings: Settings, tenant_id: UUID) -> str | None:
    """Ask for the tenant's workspaces through the gateway as it would; return what is wrong, or None."""
    issuer = TokenIssuer(settings.jwt_secret_key.get_secret_value())
    scopes = [scope for scope in scopes_of(("tenant_admin",)) if scope.endswith(":read")]
    headers = {"Authorization": f"Bearer {issuer.issue('service:provisioning', tenant_id, scopes)}"}
    if traceparent := traces.here():
        headers["traceparent"] = traceparent
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5), headers=headers) as session:
            for path in _WORKSPACES:
                async with session.get(settings.gateway_url + path) as answer:
                    if answer.status != 200:
                        return f"GET {path} answered {answer.status}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"the gateway does not answer: {error or type(error).__name__}"
    return None
