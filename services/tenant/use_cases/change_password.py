"""Change one's own password."""

import asyncio
from typing import Any
from uuid import UUID

from chassis.http.problem import Problem
from chassis.ids import PLATFORM_TENANT
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.tenant import PasswordChanged
from services.tenant.passwords import hash_password, verify_password
from services.tenant.tables import lock_user
from services.tenant.use_cases.end_sessions import end_sessions
from services.tenant.use_cases.limit_attempts import count_attempt, forget_attempts


class PasswordChange:
    """A change that is looked at first, which takes time, and then made in a transaction."""

    def __init__(self, service: Service, who: Principal) -> None:
        self._service = service
        self._who = who
        self._known: Any = None
        self._slug: str | None = None
        self._fits = False
        self._new_hash = ""

    async def look(self, present: str, new: str) -> None:
        """Hold the present password against the user's; Problem 403 for who is no user, 429 if it is too soon."""
        async with self._service.db.for_tenant(self._who.tenant_id) as tx:
            self._known = await tx.fetchrow(
                "select u.user_id, u.email, u.password_hash, t.slug from app_user u"
                " left join tenant t using (tenant_id) where u.tenant_id = $1 and u.user_id::text = $2",
                self._who.tenant_id,
                self._who.subject,
            )
        if self._known is None:
            raise Problem(403, "not-a-user", "This token was not issued to a user, who has a password.")
        # Whoever found a token must not find out the password by it.
        await count_attempt(self._service, self._known["email"], self._known["slug"])
        self._fits = await asyncio.to_thread(verify_password, self._known["password_hash"], present)
        self._new_hash = await asyncio.to_thread(hash_password, new) if self._fits else ""

    async def make(self, tx: Transaction) -> None:
        """Make it, and end the user's other sessions; Problem 403 when the present password is wrong."""
        user = await lock_user(tx, self._who.tenant_id, self._known["user_id"])
        if user is None or not self._fits or user["password_hash"] != self._known["password_hash"]:
            raise Problem(403, "wrong-password", "The present password is wrong.")
        await set_password(tx, self._service, user, self._new_hash, reset=False)
        own = UUID(self._who.session_id) if self._who.session_id else None
        await end_sessions(tx, self._service, user, "password-changed", but=own)

    async def made(self) -> None:
        """Forget the attempts before."""
        async with self._service.db.for_tenant(PLATFORM_TENANT) as tx:
            await forget_attempts(tx, self._known["email"], self._known["slug"])


async def set_password(tx: Transaction, service: Service, user: Any, password_hash: str, *, reset: bool) -> None:
    """Give a user who is locked another password; resets that were made for the one before end."""
    ids = {"tenant_id": user["tenant_id"], "user_id": user["user_id"]}
    version = await tx.fetchval(
        "update app_user set password_hash = $3, reset_requested_at = null, version = version + 1"
        " where tenant_id = $1 and user_id = $2 returning version",
        *ids.values(),
        password_hash,
    )
    await tx.execute("delete from password_reset where tenant_id = $1 and user_id = $2", *ids.values())
    event = PasswordChanged(**ids, reset=reset)
    await publish(tx, [Outgoing(event, version)], source=service.source, clock=service.clock)
