"""Slow down whoever tries passwords: for each name by itself, whether there is such a user or not."""

from chassis.http.problem import Problem
from chassis.ids import PLATFORM_TENANT
from chassis.persistence.database import Transaction
from chassis.service import Service
from services.tenant.domain.attempts import FORGOTTEN_AFTER, Attempts, TooSoon

# By the database's own small letters, which users are found by as well. Hashed: people type passwords as their names.
_ACCOUNT = "sha256(convert_to(lower($1) || chr(10) || coalesce($2, ''), 'UTF8'))"


async def count_attempt(service: Service, username: str, slug: str | None) -> Attempts:
    """Count an attempt before it is looked at, so that many at once are no way around; Problem 429 if it is too soon.

    It counts as failed until `forget_attempts`. Returns those in a row, with this one.
    """
    now = service.clock.now()
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        account: bytes = await tx.fetchval(f"select {_ACCOUNT}", username, slug)
        await tx.execute(
            "insert into sign_in_attempts (tenant_id, account, failures, last_at) values ($1, $2, 0, $3)"
            " on conflict do nothing",
            PLATFORM_TENANT,
            account,
            now,
        )
        row = await tx.fetchrow(
            "select failures, last_at from sign_in_attempts where tenant_id = $1 and account = $2 for update",
            PLATFORM_TENANT,
            account,
        )
        # Forgotten by another meanwhile, it is as good as new.
        known = Attempts(row["failures"], row["last_at"]) if row else Attempts(0, now)
        try:
            counted = known.another(now)
        except TooSoon as wait:
            raise Problem(
                429,
                "too-many-attempts",
                "The password was wrong too often. Wait, or ask an administrator for a reset.",
                headers={"Retry-After": str(wait.seconds)},
            ) from None
        await tx.execute(
            "update sign_in_attempts set failures = $3, last_at = $4 where tenant_id = $1 and account = $2",
            PLATFORM_TENANT,
            account,
            counted.failures,
            counted.last_at,
        )
        # A flood of names must not fill the table: each attempt takes away more old ones than it adds.
        await tx.execute(
            "delete from sign_in_attempts where tenant_id = $1 and account in (select account from sign_in_attempts"
            " where tenant_id = $1 and last_at < $2 order by last_at limit 10 for update skip locked)",
            PLATFORM_TENANT,
            now - FORGOTTEN_AFTER,
        )
    return counted


async def keep_attempt(tx: Transaction, username: str, slug: str | None) -> None:
    """Write the attempts of a name as they are. `tx` is in the platform's context."""
    await tx.execute(
        f"update sign_in_attempts set failures = failures where tenant_id = $3 and account = {_ACCOUNT}",
        username,
        slug,
        PLATFORM_TENANT,
    )


async def forget_attempts(tx: Transaction, username: str, slug: str | None) -> None:
    """Begin anew: the password was right. `tx` is in the platform's context."""
    await tx.execute(
        f"delete from sign_in_attempts where tenant_id = $3 and account = {_ACCOUNT}", username, slug, PLATFORM_TENANT
    )
