"""Let a user who forgot the password choose another: the user asks, an administrator makes a token, which is used once.

Whoever asks learns nothing: neither whether there is such a user, nor a token. The request is shown to those who
administer the tenant's users, and told by an event.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from chassis.http.authority import not_more_than_own
from chassis.http.problem import Conflict, NotFound, Problem
from chassis.ids import PLATFORM_TENANT
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security import actors
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.tenant import PasswordResetCreated, PasswordResetRequested
from services.tenant.digests import digest, new_token
from services.tenant.passwords import hash_password
from services.tenant.tables import find_user, lock_user
from services.tenant.use_cases.authorize import scopes_in
from services.tenant.use_cases.change_password import set_password
from services.tenant.use_cases.limit_attempts import forget_attempts
from services.tenant.use_cases.revoke_tokens import end_all

_LIFETIME = timedelta(hours=1)
_TOLD_AGAIN_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Reset:
    token: str
    email: str
    expires_at: datetime


async def request_reset(service: Service, username: str, slug: str | None) -> None:
    """Note that a user asks for a reset; of a name that nobody has, nothing. Asked again within the hour, neither."""
    now = service.clock.now()
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        user = await find_user(tx, username, slug)
        if user is None or user["password_hash"] is None or user["disabled_at"] is not None:
            return
        version = await tx.fetchval(
            "update app_user set reset_requested_at = $3, version = version + 1 where tenant_id = $1"
            " and user_id = $2 and (reset_requested_at is null or reset_requested_at < $4)"
            " returning version",
            user["tenant_id"],
            user["user_id"],
            now,
            now - _TOLD_AGAIN_AFTER,
        )
        if version is not None:
            event = PasswordResetRequested(user_id=user["user_id"], tenant_id=user["tenant_id"])
            await publish(tx, [Outgoing(event, version)], source=service.source, clock=service.clock)


async def create_reset(tx: Transaction, service: Service, who: Principal, user_id: UUID) -> Reset:
    """Return a token that is shown once, for a user of the caller's tenant, or of any for the platform.

    Nobody gets into the account of one who may do more than himself. Earlier tokens end.
    """
    tenant_id = await tx.fetchval(
        "select tenant_id from app_user where user_id = $1 and ($2::uuid = $3::uuid or tenant_id = $2)",
        user_id,
        who.tenant_id,
        PLATFORM_TENANT,
    )
    user = await lock_user(tx, tenant_id, user_id) if tenant_id else None
    if user is None:
        raise NotFound("user", user_id)
    if tenant_id == who.tenant_id:
        not_more_than_own(who, await scopes_in(tx, tenant_id, user["roles"]))
    if user["password_hash"] is None:
        raise Conflict("not-accepted", "The user has not accepted an invitation, and has no password yet.")
    token, expires_at = new_token(), service.clock.now() + _LIFETIME
    ids = {"tenant_id": tenant_id, "user_id": user_id}
    await tx.execute("delete from password_reset where tenant_id = $1 and user_id = $2", *ids.values())
    await tx.execute(
        "insert into password_reset (tenant_id, user_id, token_hash, expires_at) values ($1, $2, $3, $4)",
        *ids.values(),
        digest(token),
        expires_at,
    )
    version = await tx.fetchval(
        "update app_user set version = version + 1 where tenant_id = $1 and user_id = $2 returning version",
        *ids.values(),
    )
    event = PasswordResetCreated(**ids, created_by=who.subject, expires_at=expires_at)
    await publish(tx, [Outgoing(event, version)], source=service.source, clock=service.clock)
    return Reset(token, user["email"], expires_at)


async def accept_reset(service: Service, token: str, password: str) -> None:
    """Set the password and end all sessions and tokens. The token stands for the tenant's context."""
    password_hash = await asyncio.to_thread(hash_password, password)
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        find = "select tenant_id, user_id, expires_at from password_reset where token_hash = $1"
        found = await tx.fetchrow(find, digest(token))
        user = await lock_user(tx, found["tenant_id"], found["user_id"]) if found else None
        # Once more, now that nobody else uses it.
        found = await tx.fetchrow(find, digest(token)) if user else None
        if user is None or found is None or found["expires_at"] <= service.clock.now():
            raise Problem(400, "invalid-reset", "The reset is unknown, used, or its time is over.")
        actors.identified(user["tenant_id"], user["user_id"])
        await set_password(tx, service, user, password_hash, reset=True)
        await end_all(tx, service, user)
        slug = await tx.fetchval("select slug from tenant where tenant_id = $1", user["tenant_id"])
        await forget_attempts(tx, user["email"], slug)
