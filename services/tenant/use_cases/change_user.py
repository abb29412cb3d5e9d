"""Change what a user may do, disable and delete users; always with somebody left who can undo it."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from starlette.requests import Request

from chassis.http.authority import not_more_than_own
from chassis.http.preconditions import require_match
from chassis.http.problem import Conflict, NotFound
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.tenant import UserDeleted, UserUpdated
from services.tenant.tables import USER_COLUMNS
from services.tenant.use_cases.authorize import administrator_role, may_give, scopes_in
from services.tenant.use_cases.change_api_key import revoke_keys_of
from services.tenant.use_cases.revoke_tokens import end_all, revoke_access


async def change_user(
    tx: Transaction,
    service: Service,
    request: Request,
    who: Principal,
    user_id: UUID,
    roles: Collection[str] | None,
    disabled: bool | None,
) -> Any:
    """Apply the changes to the version that the caller read, and return the row.

    One who is disabled is signed out everywhere at once. With other roles, the access tokens of before end, and the
    sessions go on with what the user may do now.
    """
    if roles is not None:
        await may_give(tx, who, roles)
    user, others = await _with_administrators(tx, who.tenant_id, user_id)
    require_match(request, user["version"])
    not_more_than_own(who, await scopes_in(tx, who.tenant_id, user["roles"]))
    new_roles = user["roles"] if roles is None else sorted(set(roles))
    was_disabled = user["disabled_at"] is not None
    new_disabled = was_disabled if disabled is None else disabled
    same_roles = set(new_roles) == set(user["roles"])
    if same_roles and new_disabled == was_disabled:
        return await _shown(tx, user)
    if new_disabled or administrator_role(who.tenant_id) not in new_roles:
        _keep_an_administrator(user, others)
    ids = {"tenant_id": user["tenant_id"], "user_id": user["user_id"]}
    version = await tx.fetchval(
        "update app_user set roles = $3, disabled_at = case when $4 then coalesce(disabled_at, $5) end,"
        " version = version + 1 where tenant_id = $1 and user_id = $2 returning version",
        *ids.values(),
        new_roles,
        new_disabled,
        service.clock.now(),
    )
    event = UserUpdated(**ids, roles=new_roles, disabled=new_disabled, changed_by=who.subject)
    await publish(tx, [Outgoing(event, version)], source=service.source, clock=service.clock)
    if new_disabled and not was_disabled:
        await end_all(tx, service, user)
    elif not same_roles:
        await revoke_access(tx, service, user)
    return await _shown(tx, user)


async def delete_user(tx: Transaction, service: Service, who: Principal, user_id: UUID) -> None:
    """Sign a user out everywhere and delete what is known of him."""
    user, others = await _with_administrators(tx, who.tenant_id, user_id)
    not_more_than_own(who, await scopes_in(tx, who.tenant_id, user["roles"]))
    _keep_an_administrator(user, others)
    ids = {"tenant_id": user["tenant_id"], "user_id": user["user_id"]}
    await end_all(tx, service, user)
    await revoke_keys_of(tx, service, user, who.subject)
    await tx.execute("delete from app_user where tenant_id = $1 and user_id = $2", *ids.values())
    event = UserDeleted(**ids, deleted_by=who.subject)
    await publish(tx, [Outgoing(event, user["version"] + 1)], source=service.source, clock=service.clock)


async def _with_administrators(tx: Transaction, tenant_id: UUID, user_id: UUID) -> tuple[Any, list[Any]]:
    """Lock a user and all administrators, so that two who remove each other take turns; the user, the others."""
    rows = await tx.fetch(
        "select * from app_user where tenant_id = $1 and (user_id = $2 or $3 = any(roles)) order by user_id for update",
        tenant_id,
        user_id,
        administrator_role(tenant_id),
    )
    user = next((row for row in rows if row["user_id"] == user_id), None)
    if user is None:
        raise NotFound("user", user_id)
    return user, [row for row in rows if row is not user]


def _keep_an_administrator(user: Any, others: list[Any]) -> None:
    """Problem 409 if the user is the last one who can sign in as an administrator."""
    role = administrator_role(user["tenant_id"])
    left = [row for row in others if role in row["roles"] and _can_sign_in(row)]
    if role in user["roles"] and _can_sign_in(user) and not left:
        raise Conflict("last-administrator", f"This is the last user with the role {role}: make another one first.")


def _can_sign_in(row: Any) -> bool:
    return row["password_hash"] is not None and row["disabled_at"] is None


async def _shown(tx: Transaction, user: Any) -> Any:
    return await tx.fetchrow(
        f"select {USER_COLUMNS} from app_user where tenant_id = $1 and user_id = $2", user["tenant_id"], user["user_id"]
    )
