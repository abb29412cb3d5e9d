"""Make and revoke API keys: what a user's program asks for access tokens with."""

import secrets
from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from chassis.http.authority import not_more_than_own
from chassis.http.problem import Conflict, NotFound, Problem
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.tenant import ApiKeyCreated, ApiKeyRevoked
from services.tenant.digests import digest, new_token
from services.tenant.tables import lock_user
from services.tenant.use_cases.authorize import not_by_a_key, scopes_in
from services.tenant.use_cases.end_sessions import tell_of_ended

MOST_KEYS = 50
_MARK = "dmk"
"""By which a key is known for one, by people and by whatever looks for secrets in code."""


async def create_api_key(
    tx: Transaction, service: Service, who: Principal, name: str, scopes: Collection[str], lifetime: timedelta
) -> tuple[Any, str]:
    """Return the key's row, and the key, which is told this once.

    Problem 403 for more scopes than the maker's, or when a key makes it.
    """
    not_by_a_key(who)
    not_more_than_own(who, frozenset(scopes))
    user = await lock_user(tx, who.tenant_id, UUID(who.subject)) if _is_id(who.subject) else None
    if user is None:
        raise Problem(403, "not-a-user", "This token was not issued to a user, who could have keys.")
    held = await tx.fetchval(
        "select count(*) from api_key where tenant_id = $1 and user_id = $2", who.tenant_id, user["user_id"]
    )
    if held >= MOST_KEYS:
        raise Conflict("too-many-api-keys", f"A user can have {MOST_KEYS} API keys: revoke one first.")
    prefix = f"{_MARK}_{secrets.token_hex(4)}"
    key, now = f"{prefix}_{new_token()}", service.clock.now()
    row = await tx.fetchrow(
        "insert into api_key (tenant_id, api_key_id, user_id, name, prefix, key_hash, scopes, created_at, expires_at)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning *",
        who.tenant_id,
        new_id(),
        user["user_id"],
        name,
        prefix,
        digest(key),
        sorted(set(scopes)),
        now,
        now + lifetime,
    )
    assert row is not None
    told = ("api_key_id", "tenant_id", "user_id", "name", "prefix", "scopes", "expires_at")
    event = ApiKeyCreated(**{name: row[name] for name in told})
    await publish(tx, [Outgoing(event, 1)], source=service.source, clock=service.clock)
    return row, key


async def revoke_api_key(tx: Transaction, service: Service, who: Principal, api_key_id: UUID) -> None:
    """End a key of the caller's tenant, and the access tokens that were issued for it."""
    user_id = await tx.fetchval(
        "select user_id from api_key where tenant_id = $1 and api_key_id = $2", who.tenant_id, api_key_id
    )
    user = await lock_user(tx, who.tenant_id, user_id) if user_id else None
    ended = user and await tx.fetchval(
        "delete from api_key where tenant_id = $1 and api_key_id = $2 returning true", who.tenant_id, api_key_id
    )
    if user is None or not ended:
        raise NotFound("API key", api_key_id)
    event = ApiKeyRevoked(
        api_key_id=api_key_id, tenant_id=who.tenant_id, user_id=user["user_id"], revoked_by=who.subject
    )
    await publish(tx, [Outgoing(event, 2)], source=service.source, clock=service.clock)
    await tell_of_ended(tx, service, who.tenant_id, user["user_id"], [api_key_id], "revoked")


async def revoke_keys_of(tx: Transaction, service: Service, user: Any, revoked_by: str) -> None:
    """End all keys of a user who is locked, and about to be deleted with all that he was issued."""
    rows = await tx.fetch(
        "delete from api_key where tenant_id = $1 and user_id = $2 returning api_key_id",
        user["tenant_id"],
        user["user_id"],
    )
    ids = {"tenant_id": user["tenant_id"], "user_id": user["user_id"]}
    told = [Outgoing(ApiKeyRevoked(**ids, api_key_id=row["api_key_id"], revoked_by=revoked_by), 2) for row in rows]
    await publish(tx, told, source=service.source, clock=service.clock)


async def scopes_of_key(tx: Transaction, key: Any, user: Any) -> frozenset[str]:
    """Return what a key allows now: no more than its user may do, whatever that was when it was made."""
    return frozenset(key["scopes"]) & await scopes_in(tx, user["tenant_id"], user["roles"])


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
