"""Invite a tenant's first administrator, and let the invitation be accepted."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from chassis.http.problem import Conflict, NotFound, Problem
from chassis.ids import PLATFORM_TENANT
from chassis.persistence.database import Transaction
from chassis.service import Service
from services.tenant.digests import digest, new_token
from services.tenant.passwords import hash_password

_LIFETIME = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Invitation:
    token: str
    email: str
    expires_at: datetime


async def invite_administrator(tx: Transaction, service: Service, tenant_id: UUID) -> Invitation:
    """Return a token that is shown once; earlier ones that were not accepted end."""
    if not await tx.fetchval("select 1 from tenant where tenant_id = $1", tenant_id):
        raise NotFound("tenant", tenant_id)
    user = await tx.fetchrow(
        "select user_id, email, password_hash from app_user where tenant_id = $1 and 'tenant_admin' = any(roles)"
        " order by user_id limit 1 for update",
        tenant_id,
    )
    if user is None:
        raise Conflict("not-deployed", "The tenant has no administrator before its deployment succeeded.")
    if user["password_hash"] is not None:
        raise Conflict("already-accepted", "The administrator has accepted an invitation already.")
    token = new_token()
    expires_at = service.clock.now() + _LIFETIME
    await tx.execute("delete from invitation where tenant_id = $1 and user_id = $2", tenant_id, user["user_id"])
    await tx.execute(
        "insert into invitation (tenant_id, token_hash, user_id, expires_at) values ($1, $2, $3, $4)",
        tenant_id,
        digest(token),
        user["user_id"],
        expires_at,
    )
    return Invitation(token, user["email"], expires_at)


async def accept_invitation(service: Service, token: str, password: str) -> None:
    """Set the invited user's password. The token, which nobody can guess, stands for the tenant's context."""
    password_hash = await asyncio.to_thread(hash_password, password)
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        invitation = await tx.fetchrow(
            "update invitation set accepted_at = $2 where token_hash = $1 and accepted_at is null"
            " and expires_at > $2 returning tenant_id, user_id",
            digest(token),
            service.clock.now(),
        )
        if invitation is None:
            raise Problem(400, "invalid-invitation", "The invitation is unknown, used, or its time is over.")
        await tx.execute(
            "update app_user set password_hash = $3 where tenant_id = $1 and user_id = $2",
            invitation["tenant_id"],
            invitation["user_id"],
            password_hash,
        )
