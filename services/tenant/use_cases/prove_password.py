"""Let a user prove to be who the token says, before what a found token must not be enough for."""

import asyncio
from typing import Any

from chassis.http.problem import Problem
from chassis.ids import PLATFORM_TENANT
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from services.tenant.passwords import verify_password
from services.tenant.tables import lock_user
from services.tenant.use_cases.limit_attempts import count_attempt, forget_attempts


class PasswordProof:
    """A password that is looked at first, which takes time, and then counts in a transaction."""

    def __init__(self, service: Service, who: Principal) -> None:
        self._service = service
        self._who = who
        self._known: Any = None
        self.fits = False

    async def look(self, password: str) -> None:
        """Hold the password against the user's; Problem 403 for who is no user, 429 if it is too soon."""
        async with self._service.db.for_tenant(self._who.tenant_id) as tx:
            self._known = await tx.fetchrow(
                "select u.user_id, u.email, u.password_hash, t.slug from app_user u"
                " left join tenant t using (tenant_id) where u.tenant_id = $1 and u.user_id::text = $2",
                self._who.tenant_id,
                self._who.subject,
            )
        if self._known is None:
            raise not_a_user()
        # Whoever found a token must not find out the password by it.
        await count_attempt(self._service, self._known["email"], self._known["slug"])
        self.fits = await asyncio.to_thread(verify_password, self._known["password_hash"], password)

    async def user(self, tx: Transaction) -> Any:
        """Lock and load the user; Problem 403 if the password was wrong, or is another by now."""
        user = await lock_user(tx, self._who.tenant_id, self._known["user_id"])
        if user is None or not self.fits or user["password_hash"] != self._known["password_hash"]:
            raise Problem(403, "wrong-password", "The present password is wrong.")
        return user

    async def accepted(self) -> None:
        """Forget the attempts before."""
        async with self._service.db.for_tenant(PLATFORM_TENANT) as tx:
            await forget_attempts(tx, self._known["email"], self._known["slug"])


def not_a_user() -> Problem:
    """403: what signs in without a password has none of this."""
    return Problem(403, "not-a-user", "This token was not issued to a user, who has a password.")
