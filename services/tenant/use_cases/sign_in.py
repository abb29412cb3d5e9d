"""Exchange a name and a password for an access token."""

import asyncio
from datetime import timedelta

from chassis.http.problem import Problem
from chassis.ids import PLATFORM_TENANT
from chassis.security.scopes import scopes_of
from chassis.security.tokens import TokenIssuer
from chassis.service import Service
from services.tenant.passwords import verify_password

LIFETIME = timedelta(minutes=15)

_FIND = """
select u.tenant_id, u.user_id, u.password_hash, u.roles, clock_timestamp() as found_at from app_user u
left join tenant t using (tenant_id)
where u.email_lc = lower($1) and u.tenant_id = coalesce((select tenant_id from tenant where slug = $2), $3)
  and ($2::text is null or t.slug = $2)
"""


async def sign_in(
    service: Service, issuer: TokenIssuer, username: str, password: str, slug: str | None
) -> tuple[str, frozenset[str]]:
    """Return a token and its scopes. The platform's context finds the user of any tenant; only this does so."""
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        user = await tx.fetchrow(_FIND, username, slug, PLATFORM_TENANT)
    fits = await asyncio.to_thread(verify_password, user["password_hash"] if user else None, password)
    if user is None or not fits:
        # The same answer for an unknown user and a wrong password, after the same time.
        raise Problem(401, "invalid-credentials", "The name, the password or the tenant is wrong.")
    roles = tuple(user["roles"])
    scopes = scopes_of(roles)
    # By the database's clock, as a revocation: whichever came second, whatever the clocks of two instances say.
    token = issuer.issue(str(user["user_id"]), user["tenant_id"], scopes, roles, LIFETIME, issued_at=user["found_at"])
    return token, scopes
