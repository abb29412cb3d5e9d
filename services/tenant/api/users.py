"""Users: their roles, invitations, and the end of what they were issued."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.fields import PLAIN
from chassis.http.idempotency import idempotent
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.preconditions import etag
from chassis.http.problem import NotFound
from chassis.http.responses import json
from chassis.ids import PLATFORM_TENANT
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from services.tenant.api.models import (
    ResetView,
    RevocationView,
    UserChange,
    UserInvitation,
    UserInvitationView,
    UserView,
)
from services.tenant.tables import USER_COLUMNS
from services.tenant.use_cases.change_user import change_user, delete_user
from services.tenant.use_cases.invite import invite_user
from services.tenant.use_cases.reset_password import create_reset
from services.tenant.use_cases.revoke_tokens import revoke_tokens
from services.tenant.use_cases.second_factor import remove_for

router = APIRouter(prefix="/api/v1", tags=["Users"])
Reader = Annotated[Principal, Depends(require("users:read"))]
Writer = Annotated[Principal, Depends(require("users:write"))]


@router.get("/users", response_model=Page[UserView])
async def list_users(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    tenant_id: Annotated[UUID | None, Query(description="Only users of this tenant.")] = None,
    role: Annotated[str | None, Query(max_length=100, pattern=PLAIN, description="Only who has this role.")] = None,
) -> Response:
    """List the users of the caller's tenant; to the platform's administrators, those of every tenant."""
    after = decode_cursor(cursor, UUID)
    async with service.db.for_tenant(who.tenant_id) as tx:
        rows = await tx.fetch(
            f"select {USER_COLUMNS} from app_user"
            " where ($1::uuid is null or user_id > $1) and ($2::uuid is null or tenant_id = $2)"
            " and ($3::uuid = $4::uuid or tenant_id = $3) and ($6::text is null or $6 = any(roles))"
            " order by user_id limit $5",
            after[0] if after else None,
            tenant_id,
            who.tenant_id,
            PLATFORM_TENANT,
            limit + 1,
            role,
        )
    page, next_cursor = paginate(rows, limit, lambda row: [row["user_id"]])
    return json(Page[UserView](items=[UserView.of(row) for row in page], next_cursor=next_cursor))


@router.get("/users/{user_id}", response_model=UserView)
async def get_user(service: CurrentService, who: Reader, user_id: UUID) -> Response:
    """Read a user of the caller's tenant; the platform's administrators one of any."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await tx.fetchrow(
            f"select {USER_COLUMNS} from app_user where user_id = $1 and ($2::uuid = $3::uuid or tenant_id = $2)",
            user_id,
            who.tenant_id,
            PLATFORM_TENANT,
        )
    if row is None:
        raise NotFound("user", user_id)
    return json(UserView.of(row), headers={"ETag": etag(row["version"])})


@router.patch("/users/{user_id}", response_model=UserView)
async def update_user(
    request: Request, service: CurrentService, who: Writer, user_id: UUID, body: UserChange
) -> Response:
    """Give a user of the caller's own tenant other roles, disable or enable one; send the ETag as If-Match.

    The last administrator stays one.
    """
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await change_user(tx, service, request, who, user_id, body.roles, body.disabled)
    return json(UserView.of(row), headers={"ETag": etag(row["version"])})


@router.delete("/users/{user_id}", status_code=204, response_class=Response)
async def remove_user(service: CurrentService, who: Writer, user_id: UUID) -> Response:
    """Delete a user of the caller's own tenant, unless it is the last administrator."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        await delete_user(tx, service, who, user_id)
    return Response(status_code=204)


@router.delete("/users/{user_id}/second-factor", status_code=204, response_class=Response)
async def remove_user_second_factor(service: CurrentService, who: Writer, user_id: UUID) -> Response:
    """Take away the second factor of a user who lost it: of the caller's tenant, or of any for the platform."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        await remove_for(tx, service, who, user_id)
    return Response(status_code=204)


@router.post("/invitations", status_code=201, response_model=UserInvitationView)
async def invite_new_user(request: Request, service: CurrentService, who: Writer, body: UserInvitation) -> Response:
    """Invite a user to the caller's tenant. Inviting one again who has not accepted ends the invitation before."""

    async def create(tx: Transaction) -> Response:
        invitation = await invite_user(tx, service, who, body.email, body.roles)
        view = UserInvitationView.shown(invitation)
        headers = {"Location": f"/api/v1/users/{view.user_id}", "Cache-Control": "no-store"}
        return json(view, 201, headers)

    return await idempotent(request, service, who, create)


@router.post("/users/{user_id}/revocations", status_code=201, response_model=RevocationView)
async def revoke_user_tokens(request: Request, service: CurrentService, who: Writer, user_id: UUID) -> Response:
    """End all sessions of a user, and the access tokens issued until now; the user can sign in again."""

    async def revoke(tx: Transaction) -> Response:
        moment = await revoke_tokens(tx, service, who, user_id)
        return json(RevocationView(user_id=user_id, issued_before=moment), 201)

    return await idempotent(request, service, who, revoke)


@router.post("/users/{user_id}/password-resets", status_code=201, response_model=ResetView)
async def reset_user_password(request: Request, service: CurrentService, who: Writer, user_id: UUID) -> Response:
    """Make a token by which a user who forgot the password chooses another; a new one ends the ones before."""

    async def create(tx: Transaction) -> Response:
        reset = await create_reset(tx, service, who, user_id)
        view = ResetView(token=reset.token, email=reset.email, expires_at=reset.expires_at)
        return json(view, 201, {"Cache-Control": "no-store"})

    return await idempotent(request, service, who, create)
