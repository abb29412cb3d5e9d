"""What a user may do, and that nobody gives more than that to anybody."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from chassis.http.authority import not_more_than_own
from chassis.http.problem import Problem, Unprocessable
from chassis.ids import PLATFORM_TENANT
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.security.scopes import (
    PLATFORM_ADMINISTRATOR,
    PLATFORM_ROLES,
    TENANT_ADMINISTRATOR,
    TENANT_ROLES,
    Roles,
    scopes_of,
)

_OWN_ROLES = "select name, scopes from role where tenant_id = $1"


def built_in_roles(tenant_id: UUID) -> Roles:
    """Return the roles that every tenant has, or the platform's."""
    return PLATFORM_ROLES if tenant_id == PLATFORM_TENANT else TENANT_ROLES


def administrator_role(tenant_id: UUID) -> str:
    """Return the role of which a tenant, or the platform, always has somebody."""
    return PLATFORM_ADMINISTRATOR if tenant_id == PLATFORM_TENANT else TENANT_ADMINISTRATOR


async def roles_in(tx: Transaction, tenant_id: UUID) -> Roles:
    """Return all roles of a tenant: those that every one has, and its own."""
    return _roles(tenant_id, await tx.fetch(_OWN_ROLES, tenant_id))


def _roles(tenant_id: UUID, rows: Iterable[Any]) -> Roles:
    return {**{row["name"]: frozenset(row["scopes"]) for row in rows}, **built_in_roles(tenant_id)}


async def scopes_in(tx: Transaction, tenant_id: UUID, roles: Iterable[str]) -> frozenset[str]:
    """Return what a user of a tenant may do who has these roles."""
    return scopes_of(roles, await roles_in(tx, tenant_id))


def not_by_a_key(who: Principal) -> None:
    """Problem 403 for an API key: what it made to sign in with would go on when the key is over, or revoked."""
    if who.kind == "api-key":
        raise Problem(403, "made-by-a-key", "An API key makes nothing that programs sign in with: sign in as a user.")


def is_own(who: Principal, user_id: UUID | str) -> bool:
    """Whether this is who signed in. Not so a key: of its user it has the scopes that it was made with, and no more."""
    return who.kind == "user" and str(user_id) == who.subject


async def may_give(tx: Transaction, who: Principal, roles: Iterable[str]) -> frozenset[str]:
    """Return the scopes of roles to be given in the caller's tenant; Problem 422 for unknown ones, 403 for too much."""
    # Nobody deletes or changes one meanwhile. Before any user is locked: a change of a role locks its users.
    defined = _roles(who.tenant_id, await tx.fetch(f"{_OWN_ROLES} for share", who.tenant_id))
    unknown = sorted(set(roles) - defined.keys())
    if unknown:
        raise Unprocessable("unknown-role", f"There is no role {' '.join(unknown)}.")
    scopes = scopes_of(roles, defined)
    not_more_than_own(who, scopes)
    return scopes
