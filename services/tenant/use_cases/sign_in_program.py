"""Exchange what a program has for an access token: a user's API key, or a service account's secret.

Neither opens a session: the program asks again when its token is over. The token names the key or the secret where
others name their session, and ends with it.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from chassis.http.problem import Problem, Unprocessable
from chassis.ids import PLATFORM_TENANT
from chassis.persistence.database import Transaction
from chassis.security.standing import require_open
from chassis.security.tokens import TokenIssuer
from chassis.service import Service
from services.tenant.digests import digest
from services.tenant.tables import lock_user
from services.tenant.use_cases.change_api_key import scopes_of_key
from services.tenant.use_cases.open_session import LIFETIME, Granted


async def exchange_api_key(service: Service, issuer: TokenIssuer, key: str, narrowed: str | None) -> Granted:
    """Return an access token of the key's user with the key's scopes; Problem 401 if the key is not good."""
    wrong = Problem(401, "invalid-api-key", "The API key is unknown, revoked, or its time is over.")
    find = "select * from api_key where key_hash = $1"
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        found = await tx.fetchrow(find, digest(key))
        user = await lock_user(tx, found["tenant_id"], found["user_id"]) if found else None
        # Once more, now that nobody revokes it.
        found = await tx.fetchrow(find, digest(key)) if user else None
        now = service.clock.now()
        if user is None or found is None or user["disabled_at"] is not None or found["expires_at"] <= now:
            raise wrong
        scopes = _narrowed(await scopes_of_key(tx, found, user), narrowed)
        await tx.execute(
            "update api_key set last_used_at = $3 where tenant_id = $1 and api_key_id = $2",
            found["tenant_id"],
            found["api_key_id"],
            now,
        )
        left = found["expires_at"] - now
        return await _grant(
            tx, issuer, user["tenant_id"], user["user_id"], found["api_key_id"], scopes, left, "api-key"
        )


async def sign_in_service_account(
    service: Service, issuer: TokenIssuer, client_id: str, client_secret: str, narrowed: str | None
) -> Granted:
    """Return an access token of a service account; Problem 401 if the secret is none of its own."""
    wrong = Problem(
        401,
        "invalid-client",
        "The client's id or secret is wrong, or the secret's time is over.",
        headers={"WWW-Authenticate": 'Basic realm="dotmac"'},
    )
    try:
        service_account_id = UUID(client_id)
    except ValueError:
        raise wrong from None
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        account = await tx.fetchrow(
            "select * from service_account where service_account_id = $1 for update", service_account_id
        )
        credential = account and await tx.fetchrow(
            "select * from service_account_credential where tenant_id = $1 and service_account_id = $2"
            " and secret_hash = $3",
            account["tenant_id"],
            service_account_id,
            digest(client_secret),
        )
        now = service.clock.now()
        if account is None or credential is None or _is_over(credential["expires_at"], now):
            raise wrong
        scopes = _narrowed(frozenset(account["scopes"]), narrowed)
        await tx.execute(
            "update service_account_credential set last_used_at = $3 where tenant_id = $1 and credential_id = $2",
            account["tenant_id"],
            credential["credential_id"],
            now,
        )
        left = credential["expires_at"] - now if credential["expires_at"] else LIFETIME
        return await _grant(
            tx,
            issuer,
            account["tenant_id"],
            service_account_id,
            credential["credential_id"],
            scopes,
            left,
            "service-account",
        )


def _is_over(expires_at: datetime | None, now: datetime) -> bool:
    return expires_at is not None and expires_at <= now


def _narrowed(scopes: frozenset[str], wanted: str | None) -> frozenset[str]:
    """Return the scopes that are asked for, all without; Problem 422 for one that is not there to be given."""
    if wanted is None:
        return scopes
    asked = frozenset(wanted.split())
    if asked - scopes:
        raise Unprocessable("invalid-scope", f"There is no scope {' '.join(sorted(asked - scopes))} to be given.")
    return asked


async def _grant(
    tx: Transaction,
    issuer: TokenIssuer,
    tenant_id: UUID,
    subject: UUID,
    credential_id: UUID,
    scopes: Iterable[str],
    left: timedelta,
    kind: str,
) -> Granted:
    status: Any = await tx.fetchval("select status from tenant where tenant_id = $1", tenant_id)
    require_open(status)
    moment: datetime = await tx.fetchval("select clock_timestamp()")
    given, lifetime = frozenset(scopes), min(LIFETIME, left)
    token = issuer.issue(
        str(subject), tenant_id, given, (), lifetime, issued_at=moment, session_id=credential_id, kind=kind
    )
    return Granted(token, int(lifetime.total_seconds()), given)
