"""Invite users, a tenant's first administrator among them, and let invitations be accepted."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from chassis.http.authority import not_more_than_own
from chassis.http.problem import Conflict, NotFound, Problem
from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security import actors
from chassis.security.principals import Principal
from chassis.security.scopes import TENANT_ADMINISTRATOR
from chassis.service import Service
from dotmac_contracts.tenant import InvitationAccepted, UserInvited
from services.tenant.digests import digest, new_token
from services.tenant.passwords import hash_password
from services.tenant.tables import lock_tenant, lock_user, next_version
from services.tenant.use_cases.authorize import may_give, scopes_in
from services.tenant.use_cases.count_users import user_added

_LIFETIME = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Invitation:
    user_id: UUID
    token: str
    email: str
    expires_at: datetime


async def invite_administrator(tx: Transaction, service: Service, who: Principal, tenant_id: UUID) -> Invitation:
    """Return a token that is shown once; earlier ones that were not accepted end."""
    if not await tx.fetchval("select 1 from tenant where tenant_id = $1", tenant_id):
        raise NotFound("tenant", tenant_id)
    user = await tx.fetchrow(
        "select * from app_user where tenant_id = $1 and $2 = any(roles) order by user_id limit 1 for update",
        tenant_id,
        TENANT_ADMINISTRATOR,
    )
    if user is None:
        raise Conflict("not-deployed", "The tenant has no administrator before its deployment succeeded.")
    return await _invite(tx, service, who, user)


async def invite_user(
    tx: Transaction, service: Service, who: Principal, email: str, roles: Collection[str]
) -> Invitation:
    """Create a user of the caller's tenant who has no password yet, or invite such a one anew, with these roles.

    Problem 409 if the plan allows no more users.
    """
    wanted = sorted(set(roles))
    await may_give(tx, who, wanted)
    tenant = await lock_tenant(tx, who.tenant_id)  # who invites somebody new takes turns, to count them
    created = await tx.fetchval(
        "insert into app_user (tenant_id, user_id, email, roles, version) values ($1, $2, $3, $4, 0)"
        " on conflict (tenant_id, email_lc) do nothing returning true",
        who.tenant_id,
        new_id(),
        email,
        wanted,
    )
    user = await tx.fetchrow(
        "select * from app_user where tenant_id = $1 and email_lc = lower($2) for update", who.tenant_id, email
    )
    if user is None:
        raise Conflict("user-deleted", "The user was deleted meanwhile: try again.")
    if created:
        await user_added(tx, service, tenant)
    else:
        not_more_than_own(who, await scopes_in(tx, who.tenant_id, user["roles"]))
        if user["password_hash"] is None:
            await tx.execute(
                "update app_user set roles = $3 where tenant_id = $1 and user_id = $2",
                who.tenant_id,
                user["user_id"],
                wanted,
            )
    return await _invite(tx, service, who, {**user, "roles": wanted})


async def invite_first(tx: Transaction, service: Service, who: Principal, tenant_id: UUID, email: str) -> Invitation:
    """Create and invite the first administrator of a tenant that has just been registered."""
    user = await tx.fetchrow(
        "insert into app_user (tenant_id, user_id, email, roles, version) values ($1, $2, $3, $4, 0) returning *",
        tenant_id,
        new_id(),
        email,
        [TENANT_ADMINISTRATOR],
    )
    return await _invite(tx, service, who, user)


async def _invite(tx: Transaction, service: Service, who: Principal, user: Any) -> Invitation:
    """Invite a user who is locked."""
    if user["password_hash"] is not None:
        raise Conflict("already-accepted", f"{user['email']} has accepted an invitation already.")
    token = new_token()
    expires_at = service.clock.now() + _LIFETIME
    ids = {"tenant_id": user["tenant_id"], "user_id": user["user_id"]}
    await tx.execute("delete from invitation where tenant_id = $1 and user_id = $2", *ids.values())
    await tx.execute(
        "insert into invitation (tenant_id, user_id, token_hash, expires_at) values ($1, $2, $3, $4)",
        *ids.values(),
        digest(token),
        expires_at,
    )
    version = await next_version(tx, user)
    event = UserInvited(**ids, email=user["email"], roles=user["roles"], expires_at=expires_at, invited_by=who.subject)
    await publish(tx, [Outgoing(event, version)], source=service.source, clock=service.clock)
    return Invitation(user["user_id"], token, user["email"], expires_at)


async def accept_invitation(service: Service, token: str, password: str) -> None:
    """Set the invited user's password. The token, which nobody can guess, stands for the tenant's context."""
    password_hash = await asyncio.to_thread(hash_password, password)
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        find = "select * from invitation where token_hash = $1 and accepted_at is null and expires_at > $2"
        known = (digest(token), service.clock.now())
        invitation = await tx.fetchrow(find, *known)
        user = await lock_user(tx, invitation["tenant_id"], invitation["user_id"]) if invitation else None
        # Once more, now that nobody else accepts it.
        if user is None or user["disabled_at"] is not None or await tx.fetchrow(find, *known) is None:
            raise Problem(400, "invalid-invitation", "The invitation is unknown, used, or its time is over.")
        actors.identified(user["tenant_id"], user["user_id"])
        ids = {"tenant_id": user["tenant_id"], "user_id": user["user_id"]}
        await tx.execute(
            "update invitation set accepted_at = $3 where tenant_id = $1 and token_hash = $2",
            user["tenant_id"],
            known[0],
            known[1],
        )
        await tx.execute(
            "update app_user set password_hash = $3 where tenant_id = $1 and user_id = $2",
            *ids.values(),
            password_hash,
        )
        version = await next_version(tx, user)
        event = InvitationAccepted(**ids)
        await publish(tx, [Outgoing(event, version)], source=service.source, clock=service.clock)
