"""Create, change and delete the roles that a tenant defines itself."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

import asyncpg
from starlette.requests import Request

from chassis.http.authority import not_more_than_own
from chassis.http.preconditions import require_match
from chassis.http.problem import Conflict, NotFound, Unprocessable
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.envelope import Event
from dotmac_contracts.tenant import RoleCreated, RoleDeleted, RoleUpdated
from services.tenant.use_cases.authorize import administrator_role, built_in_roles
from services.tenant.use_cases.revoke_tokens import revoke_access

MOST_ROLES = 100


async def create_role(
    tx: Transaction, service: Service, who: Principal, name: str, description: str | None, scopes: Collection[str]
) -> Any:
    """Return the new role's row; Problem 409 if the name is taken, 422 for scopes that no administrator has."""
    wanted = _allowed(who, scopes)
    if name in built_in_roles(who.tenant_id):
        raise Conflict("role-exists", f"Every tenant has a role {name!r}.")
    if await tx.fetchval("select count(*) from role where tenant_id = $1", who.tenant_id) >= MOST_ROLES:
        raise Conflict("too-many-roles", f"There can be {MOST_ROLES} roles: delete one first.")
    try:
        row = await tx.fetchrow(
            "insert into role (tenant_id, role_id, name, description, scopes, version, created_at, updated_at)"
            " values ($1, $2, $3, $4, $5, 1, $6, $6) returning *",
            who.tenant_id,
            new_id(),
            name,
            description,
            wanted,
            service.clock.now(),
        )
    except asyncpg.UniqueViolationError:
        raise Conflict("role-exists", f"There is a role {name!r} already.") from None
    await _tell(tx, service, row, RoleCreated(**_told(row), changed_by=who.subject))
    return row


async def change_role(
    tx: Transaction, service: Service, request: Request, who: Principal, role_id: UUID, changes: dict[str, Any]
) -> Any:
    """Apply the changes to the version that the caller read; with fewer scopes, access tokens of its users end."""
    row = await _locked(tx, who, role_id)
    require_match(request, row["version"])
    not_more_than_own(who, frozenset(row["scopes"]))
    scopes = _allowed(who, changes["scopes"]) if "scopes" in changes else row["scopes"]
    description = changes.get("description", row["description"])
    if (scopes, description) == (row["scopes"], row["description"]):
        return row
    lost = set(row["scopes"]) - set(scopes)
    row = await tx.fetchrow(
        "update role set scopes = $3, description = $4, version = version + 1, updated_at = $5"
        " where tenant_id = $1 and role_id = $2 returning *",
        who.tenant_id,
        role_id,
        scopes,
        description,
        service.clock.now(),
    )
    assert row is not None
    await _tell(tx, service, row, RoleUpdated(**_told(row), changed_by=who.subject))
    if lost:
        users = await tx.fetch(
            "select * from app_user where tenant_id = $1 and $2 = any(roles) order by user_id for update",
            who.tenant_id,
            row["name"],
        )
        for user in users:
            await revoke_access(tx, service, user)
    return row


async def delete_role(tx: Transaction, service: Service, who: Principal, role_id: UUID) -> None:
    """Delete a role that nobody has; Problem 409 while somebody does."""
    row = await _locked(tx, who, role_id)
    not_more_than_own(who, frozenset(row["scopes"]))
    if await tx.fetchval(
        "select 1 from app_user where tenant_id = $1 and $2 = any(roles) limit 1", who.tenant_id, row["name"]
    ):
        raise Conflict("role-in-use", "Users have this role: give them others first.")
    await tx.execute("delete from role where tenant_id = $1 and role_id = $2", who.tenant_id, role_id)
    event = RoleDeleted(role_id=role_id, tenant_id=who.tenant_id, name=row["name"], deleted_by=who.subject)
    await publish(tx, [Outgoing(event, row["version"] + 1)], source=service.source, clock=service.clock)


def _allowed(who: Principal, scopes: Collection[str]) -> list[str]:
    wanted = frozenset(scopes)
    role = administrator_role(who.tenant_id)
    unknown = sorted(wanted - built_in_roles(who.tenant_id)[role])
    if unknown:
        raise Unprocessable("unknown-scope", f"A role can't have the scope {' '.join(unknown)}, which no {role} has.")
    not_more_than_own(who, wanted)
    return sorted(wanted)


async def _locked(tx: Transaction, who: Principal, role_id: UUID) -> Any:
    row = await tx.fetchrow(
        "select * from role where tenant_id = $1 and role_id = $2 for update", who.tenant_id, role_id
    )
    if row is None:
        raise NotFound("role", role_id)
    return row


def _told(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in ("role_id", "tenant_id", "name", "description", "scopes")}


async def _tell(tx: Transaction, service: Service, row: Any, event: Event) -> None:
    await publish(tx, [Outgoing(event, row["version"])], source=service.source, clock=service.clock)
