"""Open a session, and issue in it what its user goes on with."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from chassis.ids import new_id
from chassis.persistence.database import Transaction
from chassis.security.standing import require_open
from chassis.security.tokens import TokenIssuer
from chassis.service import Service
from services.tenant.digests import digest, new_token
from services.tenant.use_cases.authorize import scopes_in

LIFETIME = timedelta(minutes=15)
"""Of an access token."""
IDLE = timedelta(hours=24)
"""A session that is not refreshed for so long has ended."""
LONGEST = timedelta(days=30)
"""However often it is refreshed, a session ends after so long: its user signs in again."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a session is used from, as far as the service is told."""

    address: str | None
    user_agent: str | None


@dataclass(frozen=True, slots=True)
class Granted:
    """What a token request is answered with."""

    access_token: str
    expires_in: int
    scopes: frozenset[str]
    refresh_token: str | None = None
    refresh_expires_in: int | None = None


async def open_session(
    tx: Transaction, service: Service, issuer: TokenIssuer, user: Any, origin: Origin
) -> tuple[Granted, UUID]:
    """Open one for a user who is locked, and whose password was right; return what is granted, and its id."""
    now = service.clock.now()
    # Those that are over are of no use to anybody.
    await tx.execute(
        "delete from sign_in_session where tenant_id = $1 and user_id = $2 and (idle_until <= $3 or expires_at <= $3)",
        user["tenant_id"],
        user["user_id"],
        now,
    )
    session_id, expires_at = new_id(), now + LONGEST
    await tx.execute(
        "insert into sign_in_session (tenant_id, session_id, user_id, address, user_agent, created_at, used_at,"
        " idle_until, expires_at) values ($1, $2, $3, $4, $5, $6, $6, $7, $8)",
        user["tenant_id"],
        session_id,
        user["user_id"],
        origin.address,
        origin.user_agent,
        now,
        min(now + IDLE, expires_at),
        expires_at,
    )
    return await grant(tx, service, issuer, user, session_id, expires_at), session_id


async def grant(
    tx: Transaction, service: Service, issuer: TokenIssuer, user: Any, session_id: UUID, expires_at: datetime
) -> Granted:
    """Issue an access token and the next refresh token in a session, whose user is locked.

    TenantClosed if the tenant is: then nothing of it has happened, and the session goes on when the tenant does.
    """
    require_open(await tx.fetchval("select status from tenant where tenant_id = $1", user["tenant_id"]))
    refresh_token = new_token()
    # The moment is the database's, and taken with the user locked: a revocation comes either before it or after.
    moment: datetime = await tx.fetchval(
        "insert into refresh_token (tenant_id, token_hash, session_id) values ($1, $2, $3) returning clock_timestamp()",
        user["tenant_id"],
        digest(refresh_token),
        session_id,
    )
    roles = tuple(user["roles"])
    scopes = await scopes_in(tx, user["tenant_id"], roles)
    left = expires_at - service.clock.now()
    lifetime = min(LIFETIME, left)
    token = issuer.issue(
        str(user["user_id"]), user["tenant_id"], scopes, roles, lifetime, issued_at=moment, session_id=session_id
    )
    idle = int(min(IDLE, left).total_seconds())
    return Granted(token, int(lifetime.total_seconds()), scopes, refresh_token, idle)
