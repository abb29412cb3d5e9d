"""End access tokens before their time: with the session that its user logs out of, or all that a user was issued."""

from datetime import datetime
from typing import Any
from uuid import UUID

from chassis.http.problem import NotFound, Problem
from chassis.ids import PLATFORM_TENANT
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.tenant import TokenRevoked, TokensRevoked
from services.tenant.tables import lock_user
from services.tenant.use_cases.end_sessions import end_sessions

# Locks the aggregate (law 2) and counts its version. The moment is the database's, which sign-in goes by as well.
_CHANGE = """
insert into user_session as old (tenant_id, user_id, version, issued_before)
values ($1, $2, 1, case when $3::bool then clock_timestamp() end)
on conflict (tenant_id, user_id) do update
set version = old.version + 1, issued_before = case when $3 then clock_timestamp() else old.issued_before end
returning version, issued_before
"""


async def log_out(tx: Transaction, service: Service, who: Principal) -> None:
    """End the session of the token that was sent; a second time changes nothing. Problem 403 if it is no user's."""
    try:
        user_id, token_id = UUID(who.subject), UUID(who.token_id)
    except ValueError:
        raise Problem(403, "not-a-user", "This token was not issued to a user, who could log out.") from None
    user = await lock_user(tx, who.tenant_id, user_id)
    if user and who.session_id and not await _is_of_a_key(tx, who):
        await end_sessions(tx, service, user, "signed-out", only=UUID(who.session_id))
        return
    new = await tx.fetchval(
        "insert into revoked_token (tenant_id, user_id, token_id, expires_at) values ($1, $2, $3, $4)"
        " on conflict do nothing returning true",
        who.tenant_id,
        user_id,
        token_id,
        who.expires_at,
    )
    if not new:
        return
    session = await _changed(tx, who.tenant_id, user_id, all_tokens=False)
    event = TokenRevoked(user_id=user_id, tenant_id=who.tenant_id, token_id=token_id, expires_at=who.expires_at)
    await publish(tx, [Outgoing(event, session["version"])], source=service.source, clock=service.clock)
    await tx.execute(
        "delete from revoked_token where tenant_id = $1 and user_id = $2 and expires_at < now()", who.tenant_id, user_id
    )


async def _is_of_a_key(tx: Transaction, who: Principal) -> bool:
    """Whether an API key stands in the session's place: that one goes on."""
    find = "select true from api_key where tenant_id = $1 and api_key_id::text = $2"
    return bool(await tx.fetchval(find, who.tenant_id, who.session_id))


async def revoke_tokens(tx: Transaction, service: Service, who: Principal, user_id: UUID) -> datetime:
    """End all of a user of the caller's tenant, or of any for the platform; return until when tokens were issued."""
    tenant_id = await tx.fetchval(
        "select tenant_id from app_user where user_id = $1 and ($2::uuid = $3::uuid or tenant_id = $2)",
        user_id,
        who.tenant_id,
        PLATFORM_TENANT,
    )
    user = await lock_user(tx, tenant_id, user_id) if tenant_id else None
    if user is None:
        raise NotFound("user", user_id)
    return await end_all(tx, service, user)


async def end_all(tx: Transaction, service: Service, user: Any) -> datetime:
    """End the sessions and all access tokens of a user who is locked; return until when they were issued."""
    await tx.execute(
        "delete from sign_in_session where tenant_id = $1 and user_id = $2", user["tenant_id"], user["user_id"]
    )
    return await revoke_access(tx, service, user, sessions_ended=True)


async def revoke_access(tx: Transaction, service: Service, user: Any, *, sessions_ended: bool = False) -> datetime:
    """End the access tokens of a user who is locked; the sessions may go on, with what the user may do from now on."""
    session = await _changed(tx, user["tenant_id"], user["user_id"], all_tokens=True)
    moment: datetime = session["issued_before"]
    event = TokensRevoked(
        user_id=user["user_id"], tenant_id=user["tenant_id"], issued_before=moment, sessions_ended=sessions_ended
    )
    await publish(tx, [Outgoing(event, session["version"])], source=service.source, clock=service.clock)
    return moment


async def _changed(tx: Transaction, tenant_id: UUID, user_id: UUID, *, all_tokens: bool) -> Any:
    return await tx.fetchrow(_CHANGE, tenant_id, user_id, all_tokens)
