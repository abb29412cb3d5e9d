"""What the world says of tenants: the gateway, asked as any client asks, and the servers of their own databases."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any
from uuid import UUID

import aiohttp

from chassis.ids import PLATFORM_TENANT
from chassis.security.tokens import TokenIssuer
from chassis.settings import Settings
from services.provisioning import access
from services.provisioning.domain.drift import Seen
from services.provisioning.targets import TARGETS
from services.provisioning.targets.dedicated import Dedicated

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


async def lost(settings: Settings, placed: Mapping[UUID, str]) -> dict[UUID, Collection[str] | None]:
    """Return which databases of tenants that have their own are not there; None where nobody can tell now.

    placed: the tenants, each with its target.
    """
    at_targets = defaultdict(list)
    for tenant_id, name in placed.items():
        at_targets[name].append(tenant_id)
    found: dict[UUID, Collection[str] | None] = dict.fromkeys(placed)
    for name, tenant_ids in at_targets.items():
        target = TARGETS[name]
        if isinstance(target, Dedicated):
            found |= await target.lost(settings, tenant_ids)
    return found


async def seen(
    settings: Settings,
    page: list[dict[str, Any]],
    with_administrator: set[UUID] | None,
    without_databases: Mapping[UUID, Collection[str] | None],
) -> list[Seen]:
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
            without_databases.get(tenant_id, ()),
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
