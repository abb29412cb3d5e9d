"""End a user's sessions: one, all, or all but one. Their access tokens end with them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from chassis.http.problem import NotFound
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.envelope import Event
from dotmac_contracts.tenant import SessionEnded
from services.tenant.tables import lock_user
from services.tenant.use_cases.authorize import is_own
from services.tenant.use_cases.open_session import LIFETIME

# Locks the aggregate of a user's tokens (law 2), and counts a version for each event that tells of it.
_COUNT = """
insert into user_session as old (tenant_id, user_id, version) values ($1, $2, $3)
on conflict (tenant_id, user_id) do update set version = old.version + $3 returning version
"""


async def end_sessions(
    tx: Transaction, service: Service, user: Any, reason: str, *, only: UUID | None = None, but: UUID | None = None
) -> int:
    """End sessions of a user who is locked, and return how many there were."""
    ended = await tx.fetch(
        "delete from sign_in_session where tenant_id = $1 and user_id = $2 and ($3::uuid is null or session_id = $3)"
        " and ($4::uuid is null or session_id <> $4) returning session_id",
        user["tenant_id"],
        user["user_id"],
        only,
        but,
    )
    session_ids = [row["session_id"] for row in ended]
    await tell_of_ended(tx, service, user["tenant_id"], user["user_id"], session_ids, reason)
    return len(ended)


async def tell_of_ended(
    tx: Transaction, service: Service, tenant_id: UUID, subject: UUID, session_ids: Sequence[UUID], reason: str
) -> None:
    """End the access tokens of sessions, or of what stands in a session's place: an API key, a secret."""
    if not session_ids:
        return
    ids = {"tenant_id": tenant_id, "user_id": subject}
    expires_at = service.clock.now() + LIFETIME
    events = [SessionEnded(**ids, session_id=each, expires_at=expires_at, reason=reason) for each in session_ids]
    await tell(tx, service, tenant_id, subject, events)


async def tell(tx: Transaction, service: Service, tenant_id: UUID, subject: UUID, events: Sequence[Event]) -> None:
    """Publish events of a user's sessions, who is locked."""
    last = await tx.fetchval(_COUNT, tenant_id, subject, len(events))
    told = [Outgoing(event, version) for version, event in enumerate(events, last - len(events) + 1)]
    await publish(tx, told, source=service.source, clock=service.clock)


async def end_session(tx: Transaction, service: Service, who: Principal, session_id: UUID) -> None:
    """End a session of the caller's own, or with `users:write` of any user of the tenant; else Problem 404."""
    row = await tx.fetchrow(
        "select user_id from sign_in_session where tenant_id = $1 and session_id = $2", who.tenant_id, session_id
    )
    if row is None or not (is_own(who, row["user_id"]) or "users:write" in who.scopes):
        raise NotFound("session", session_id)
    user = await lock_user(tx, who.tenant_id, row["user_id"])
    if user is None or not await end_sessions(tx, service, user, "revoked", only=session_id):
        raise NotFound("session", session_id)
