"""The pooled target: tenants share the services and their databases, and rows keep them apart."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import aiohttp

from chassis.security.scopes import scopes_of
from chassis.security.standing import CLOSED, ENTER
from chassis.security.tokens import TokenIssuer
from chassis.settings import Settings
from chassis.telemetry import traces

PLACEMENT = "cell-1"
_WORKSPACES = ("/api/v1/workspace", "/api/v1/billing-workspace")

Look = Callable[[str, aiohttp.ClientResponse], Awaitable[str | None]]


async def verify(settings: Settings, tenant_id: UUID) -> str | None:
    """Ask for the tenant's workspaces through the gateway, also while it is closed; return what is wrong, or None."""
    return await _ask(settings, tenant_id, [ENTER], _answered)


async def missing(settings: Settings, tenant_id: UUID) -> str | None:
    """Return which of the tenant's workspaces is not there; None if all are, or nobody can tell now."""

    async def look(path: str, answer: aiohttp.ClientResponse) -> str | None:
        return f"GET {path} answered 404" if answer.status == 404 else None

    found = await _ask(settings, tenant_id, [ENTER], look)
    return found if found and found.endswith("answered 404") else None


async def verify_open(settings: Settings, tenant_id: UUID) -> str | None:
    """Do the same as the tenant's users would."""
    return await _ask(settings, tenant_id, [], _answered)


async def verify_closed(settings: Settings, tenant_id: UUID, status: str) -> str | None:
    """See whether the tenant's users are refused, and are told why; return what is wrong, or None."""
    kind = f"/problems/{CLOSED[status][0]}"

    async def refused(path: str, answer: aiohttp.ClientResponse) -> str | None:
        if answer.status != 403:
            return f"GET {path} answered {answer.status}, not 403"
        said = (await answer.json(content_type=None)).get("type")
        return None if said == kind else f"GET {path} was refused as {said}, not as {kind}"

    return await _ask(settings, tenant_id, [], refused)


async def _answered(path: str, answer: aiohttp.ClientResponse) -> str | None:
    return None if answer.status == 200 else f"GET {path} answered {answer.status}"


async def _ask(settings: Settings, tenant_id: UUID, scopes: list[str], look: Look) -> str | None:
    issuer = TokenIssuer(*settings.signing_secrets)
    scopes = [*scopes, *(scope for scope in scopes_of(("tenant_admin",)) if scope.endswith(":read"))]
    token = issuer.issue("service:provisioning", tenant_id, scopes, kind="system")
    headers = {"Authorization": f"Bearer {token}"}
    if traceparent := traces.here():
        headers["traceparent"] = traceparent
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5), headers=headers) as session:
            for path in _WORKSPACES:
                async with session.get(settings.gateway_url + path) as answer:
                    if wrong := await look(path, answer):
                        return wrong
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"the gateway does not answer: {error or type(error).__name__}"
    return None
