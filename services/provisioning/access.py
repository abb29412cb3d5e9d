"""What the gateway answers to a tenant's users, wherever the tenant is placed."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import aiohttp

from chassis.security.scopes import scopes_of
from chassis.security.standing import CLOSED, ENTER
from chassis.security.tokens import TokenIssuer
from chassis.settings import Settings
from chassis.telemetry import traces

_WORKSPACES = ("/api/v1/workspace", "/api/v1/billing-workspace")
_REFUSALS = frozenset(f"/problems/{slug}" for slug, _ in CLOSED.values())

Look = Callable[[str, aiohttp.ClientResponse], Awaitable[str | None]]


async def verify(settings: Settings, tenant_id: UUID) -> str | None:
    """Ask for the tenant's workspaces through the gateway, also while it is closed; return what is wrong, or None."""
    return await _ask(settings, tenant_id, [ENTER], _answered)


async def standing(settings: Settings, tenant_id: UUID) -> str | None:
    """Return as what the tenant's users are refused; `""` if they are let in, None if nobody can tell now."""
    found: list[str] = []

    async def look(_path: str, answer: aiohttp.ClientResponse) -> str:
        if answer.status in (200, 404):
            found.append("")
        elif answer.status == 403:
            kind = str((await answer.json(content_type=None)).get("type"))
            found.extend([kind] if kind in _REFUSALS else [])
        return "one answer is enough"

    await _ask(settings, tenant_id, [], look)
    return found[0] if found else None


async def workspaces(settings: Settings, tenant_id: UUID) -> dict[str, bool | None]:
    """Return which of the tenant's workspaces are there, by their paths; None of one that nobody can tell of now."""
    found: dict[str, bool | None] = dict.fromkeys(_WORKSPACES)

    async def look(path: str, answer: aiohttp.ClientResponse) -> None:
        found[path] = {200: True, 404: False}.get(answer.status)

    await _ask(settings, tenant_id, [ENTER], look)
    return found


def refusal(status: str) -> str | None:
    """Return the kind of problem with which a tenant's users are refused in a status, if they are."""
    return f"/problems/{CLOSED[status][0]}" if status in CLOSED else None


async def verify_open(settings: Settings, tenant_id: UUID) -> str | None:
    """Do the same as the tenant's users would."""
    return await _ask(settings, tenant_id, [], _answered)


async def verify_closed(settings: Settings, tenant_id: UUID, status: str) -> str | None:
    """See whether the tenant's users are refused, and are told why; return what is wrong, or None."""
    kind = refusal(status)

    async def refused(path: str, answer: aiohttp.ClientResponse) -> str | None:
        if answer.status != 403:
            return f"GET {path} answered {answer.status}, not 403"
        said = (await answer.json(content_type=None)).get("type")
        return None if said == kind else f"GET {path} was refused as {said}, not as {kind}"

    return await _ask(settings, tenant_id, [], refused)


async def verify_held(settings: Settings, tenant_id: UUID) -> str | None:
    """See whether the gateway has the tenant's requests wait, and those under way have ended."""

    async def waits(path: str, answer: aiohttp.ClientResponse) -> str | None:
        said = await answer.json(content_type=None)
        if answer.status != 503 or said.get("type") != "/problems/tenant-moving":
            return f"GET {path} answered {answer.status}, not that the tenant is being moved"
        return f"{said['under_way']} requests are under way" if said.get("under_way") else None

    return await _ask(settings, tenant_id, [ENTER], waits)


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
