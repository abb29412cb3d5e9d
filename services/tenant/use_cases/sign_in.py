"""Exchange a name and a password for a session."""

import asyncio
from typing import Any

from chassis.http.problem import Problem
from chassis.ids import PLATFORM_TENANT
from chassis.persistence.database import Transaction
from chassis.security import actors
from chassis.security.standing import TenantClosed
from chassis.security.tokens import TokenIssuer
from chassis.service import Service
from dotmac_contracts.tenant import SignedIn, SignInFailed
from services.tenant.domain.attempts import Attempts
from services.tenant.passwords import hash_password, is_outdated, verify_password
from services.tenant.tables import find_user, lock_user
from services.tenant.use_cases.end_sessions import tell
from services.tenant.use_cases.limit_attempts import count_attempt, forget_attempts, keep_attempt
from services.tenant.use_cases.open_session import Granted, Origin, open_session
from services.tenant.use_cases.second_factor import check


async def sign_in(
    service: Service,
    issuer: TokenIssuer,
    username: str,
    password: str,
    slug: str | None,
    origin: Origin,
    code: str | None = None,
) -> Granted:
    """Open a session; Problem 401 unless the password and, of who has a second factor, the code are right.

    TenantClosed if they are, and the tenant's users are refused.

    The platform's context finds the user of any tenant; only what needs no token does so.
    """
    attempts = await count_attempt(service, username, slug)
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        found = await find_user(tx, username, slug)
    known = found["password_hash"] if found else None
    fits = await asyncio.to_thread(verify_password, known, password)
    if found is None or not fits:
        async with service.db.for_tenant(PLATFORM_TENANT) as tx:
            if found is not None:
                await _tell_of_failure(tx, service, found, attempts, "password")
            else:  # is written for as long, so that the time does not tell who is known; and no more rows than before
                await keep_attempt(tx, username, slug)
        raise _wrong()
    renewed = await asyncio.to_thread(hash_password, password) if is_outdated(known) else None
    try:
        async with service.db.for_tenant(PLATFORM_TENANT) as tx:
            user = await lock_user(tx, found["tenant_id"], found["user_id"])
            # Another password was chosen meanwhile; or one who is disabled, of whom nothing more is said.
            if user is None or user["password_hash"] != known or user["disabled_at"] is not None:
                raise _wrong()
            if renewed:
                await tx.execute(
                    "update app_user set password_hash = $3 where tenant_id = $1 and user_id = $2",
                    user["tenant_id"],
                    user["user_id"],
                    renewed,
                )
            actors.identified(user["tenant_id"], user["user_id"])
            await check(tx, service, user, code)  # a wrong one counts as an attempt, as a wrong password does
            await forget_attempts(tx, username, slug)
            granted, session_id = await open_session(tx, service, issuer, user, origin)
            ids = {"tenant_id": user["tenant_id"], "user_id": user["user_id"]}
            await tell(tx, service, user["tenant_id"], user["user_id"], [SignedIn(**ids, session_id=session_id)])
            return granted
    except TenantClosed:
        # They were right, and what forgot the attempts is undone with the session: the next one is told why as well.
        async with service.db.for_tenant(PLATFORM_TENANT) as tx:
            await forget_attempts(tx, username, slug)
        raise
    except Problem as problem:
        reason = {"wrong-code": "code", "invalid-credentials": "disabled"}.get(problem.slug)
        if reason:
            async with service.db.for_tenant(PLATFORM_TENANT) as tx:
                await _tell_of_failure(tx, service, found, attempts, reason)
        raise


async def _tell_of_failure(tx: Transaction, service: Service, found: Any, attempts: Attempts, reason: str) -> None:
    """Tell of an attempt of a known name; how many there can be in a day, `Attempts` limits."""
    user = await lock_user(tx, found["tenant_id"], found["user_id"])
    if user is None:
        return
    ids = {"tenant_id": user["tenant_id"], "user_id": user["user_id"]}
    locked = int(attempts.wait().total_seconds())
    failed = SignInFailed(**ids, reason=reason, failures=attempts.failures, locked_seconds=locked)
    await tell(tx, service, user["tenant_id"], user["user_id"], [failed])


def _wrong() -> Problem:
    # The same answer for an unknown user and a wrong password, after the same time.
    return Problem(401, "invalid-credentials", "The name, the password or the tenant is wrong.")
