"""Exchange a refresh token for the next one and an access token. Each is good once."""

from typing import Any

from chassis.http.problem import Problem
from chassis.ids import PLATFORM_TENANT
from chassis.persistence.database import Transaction
from chassis.security.tokens import TokenIssuer
from chassis.service import Service
from services.tenant.digests import digest
from services.tenant.tables import lock_user
from services.tenant.use_cases.end_sessions import end_sessions
from services.tenant.use_cases.open_session import IDLE, Granted, Origin, grant


async def refresh_session(service: Service, issuer: TokenIssuer, token: str, origin: Origin) -> Granted:
    """Return what the session goes on with; Problem 401 when it has ended.

    A token that comes a second time has been copied, and nobody knows who has the copy: the session ends (RFC 9700).
    There is no grace for a client that lost the answer; it signs in again. The token, which nobody can guess, stands
    for the tenant's context.
    """
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        granted = await _refresh(tx, service, issuer, digest(token), origin)
    if granted is None:  # said after the commit, by which a session ends
        raise Problem(401, "invalid-refresh-token", "The session has ended: sign in again.")
    return granted


async def _refresh(
    tx: Transaction, service: Service, issuer: TokenIssuer, token_hash: bytes, origin: Origin
) -> Granted | None:
    session = await _session(tx, token_hash)
    if session is None:
        return None
    user = await lock_user(tx, session["tenant_id"], session["user_id"])
    session = await _session(tx, token_hash)  # as it is now that nobody else changes it
    if user is None or user["disabled_at"] is not None or session is None:
        return None
    ids, now = (session["tenant_id"], session["session_id"]), service.clock.now()
    if session["token_used_at"] is not None:
        await end_sessions(tx, service, user, "reused", only=session["session_id"])
        return None
    if session["idle_until"] <= now or session["expires_at"] <= now:
        await tx.execute("delete from sign_in_session where tenant_id = $1 and session_id = $2", *ids)
        return None
    await tx.execute(
        "update refresh_token set used_at = $3 where tenant_id = $1 and token_hash = $2", ids[0], token_hash, now
    )
    await tx.execute(
        "update sign_in_session set used_at = $3, idle_until = $4, address = $5, user_agent = $6"
        " where tenant_id = $1 and session_id = $2",
        *ids,
        now,
        min(now + IDLE, session["expires_at"]),
        origin.address,
        origin.user_agent,
    )
    return await grant(tx, service, issuer, user, session["session_id"], session["expires_at"])


async def _session(tx: Transaction, token_hash: bytes) -> Any:
    return await tx.fetchrow(
        "select s.*, r.used_at as token_used_at from refresh_token r"
        " join sign_in_session s using (tenant_id, session_id) where r.token_hash = $1",
        token_hash,
    )
