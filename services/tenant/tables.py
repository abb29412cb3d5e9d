"""Storage of tenants and users."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from chassis.ids import PLATFORM_TENANT
from chassis.persistence.database import Transaction
from services.tenant.domain.tenant import Profile, Status, Tenant

TENANT_COLUMNS = (
    "tenant_id, name, slug, contact_email, plan, currency, country, time_zone, status, deployment_id, version,"
    " created_at, updated_at"
)
USER_COLUMNS = (
    "tenant_id, user_id, email, roles, version, reset_requested_at, created_at, case when disabled_at is not null"
    " then 'disabled' when password_hash is null then 'invited' else 'active' end as status"
)
"""What is shown of a user."""


def tenant_of(row: Any) -> Tenant:
    """Return the aggregate in a row of `tenant`."""
    profile = Profile(**{name: row[name] for name in Profile.__dataclass_fields__})
    return Tenant(row["tenant_id"], profile, Status(row["status"]), row["version"], row["deployment_id"])


async def lock_tenant(tx: Transaction, tenant_id: UUID) -> Tenant | None:
    """Lock and load a tenant (law 2: before its events go into the outbox)."""
    row = await tx.fetchrow(f"select {TENANT_COLUMNS} from tenant where tenant_id = $1 for update", tenant_id)
    return tenant_of(row) if row else None


async def save_tenant(tx: Transaction, tenant: Tenant) -> Any:
    """Update a tenant that was locked, and return its row; one of the same version stays as it is, to its times."""
    profile = asdict(tenant.profile)
    names = list(profile)
    sets = ", ".join(f"{name} = ${index}" for index, name in enumerate(names, 5))
    return await tx.fetchrow(
        "update tenant set status = $2, deployment_id = $3, version = $4,"
        f" updated_at = case when version = $4 then updated_at else now() end, {sets}"
        f" where tenant_id = $1 returning {TENANT_COLUMNS}",
        tenant.id,
        tenant.status,
        tenant.deployment_id,
        tenant.version,
        *profile.values(),
    )


async def find_user(tx: Transaction, username: str, slug: str | None) -> Any:
    """Return the row of a user by name, of a tenant or, without a slug, of the platform; in the platform's context."""
    return await tx.fetchrow(
        "select u.* from app_user u left join tenant t using (tenant_id) where u.email_lc = lower($1)"
        " and u.tenant_id = coalesce((select tenant_id from tenant where slug = $2), $3)"
        " and ($2::text is null or t.slug = $2)",
        username,
        slug,
        PLATFORM_TENANT,
    )


async def lock_user(tx: Transaction, tenant_id: UUID, user_id: UUID) -> Any:
    """Lock and load a user's row: whatever changes the user, the sessions or the tokens takes turns on it."""
    return await tx.fetchrow(
        "select * from app_user where tenant_id = $1 and user_id = $2 for update", tenant_id, user_id
    )


async def next_version(tx: Transaction, user: Any) -> int:
    """Count a change of a user who is locked: each is told by one event."""
    version: int = await tx.fetchval(
        "update app_user set version = version + 1 where tenant_id = $1 and user_id = $2 returning version",
        user["tenant_id"],
        user["user_id"],
    )
    return version
