"""What the world says of tenants, asked through the gateway as any client asks."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiohttp

from chassis.ids import PLATFORM_TENANT
from chassis.security.tokens import TokenIssuer
from chassis.settings import Settings
from services.provisioning import access
from services.provisioning.domain.drift import Seen

_PAGE = 200
_AT_ONCE = 20
_NEEDS = ("tenants:read", "users:read")


class Unanswered(Exception):
    """Nobody can tell now."""


async def tenants(settings: Settings) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield all tenants as the tenant service knows them, page by page; Unanswered if it can't be asked."""
    async for page in _pages(settings, "/api/v1/tenants", {}):
        yield page


async def administered(settings: Settings) -> set[UUID] | None:
    """Return the tenants that have an administrator who is not disabled; None if nobody can tell now."""
    found = set()
    try:
        async for page in _pages(settings, "/api/v1/users", {"role": "tenant_admin"}):
            found |= {UUID(user["tenant_id"]) for user in page if user["status"] != "disabled"}
    except Unanswered:
        return None
    return found


async def seen(settings: Settings, page: list[dict[str, Any]], with_administrator: set[UUID] | None) -> list[Seen]:
    """Return what is seen of each tenant of a page."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def look(tenant: dict[str, Any]) -> Seen:
        tenant_id, refused_as = UUID(tenant["id"]), None
        async with turns:
            if tenant["status"] != "deprovisioned":  # of one that has left nobody need know for long
                refused_as = await access.standing(settings, tenant_id)
            there = await access.workspaces(settings, tenant_id)
        deployment = tenant["deployment_id"]
        return Seen(
            tenant["status"],
            UUID(deployment) if deployment else None,
            there,
            refused_as,
            None if with_administrator is None else tenant_id in with_administrator,
        )

    return await asyncio.gather(*map(look, page))


async def _pages(settings: Settings, path: str, params: dict[str, str]) -> AsyncIterator[list[dict[str, Any]]]:
    token = TokenIssuer(*settings.signing_secrets).issue("service:provisioning", PLATFORM_TENANT, _NEEDS, kind="system")
    params = {**params, "limit": str(_PAGE)}
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5), headers=headers) as session:
        while True:
            try:
                async with session.get(settings.gateway_url + path, params=params) as answer:
                    if answer.status != 200:
                        raise Unanswered(f"GET {path} answered {answer.status}")
                    body = await answer.json()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise Unanswered(f"the gateway does not answer: {error or type(error).__name__}") from error
            yield body["items"]
            if body["next_cursor"] is None:
                return
            params["cursor"] = body["next_cursor"]
