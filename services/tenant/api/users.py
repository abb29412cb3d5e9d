"""Users, and the end of their sessions."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.idempotency import idempotent
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.responses import json
from chassis.ids import PLATFORM_TENANT
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from services.tenant.api.models import ResetView, RevocationView, UserView
from services.tenant.use_cases.reset_password import create_reset
from services.tenant.use_cases.revoke_tokens import revoke_tokens

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
) -> Response:
    """List the users of the caller's tenant; to the platform's administrators, those of every tenant."""
    after = decode_cursor(cursor, UUID)
    async with service.db.for_tenant(who.tenant_id) as tx:
        rows = await tx.fetch(
            "select tenant_id, user_id, email, roles, reset_requested_at, created_at from app_user"
            " where ($1::uuid is null or user_id > $1) and ($2::uuid is null or tenant_id = $2)"
            " and ($3::uuid = $4::uuid or tenant_id = $3) order by user_id limit $5",
            after[0] if after else None,
            tenant_id,
            who.tenant_id,
            PLATFORM_TENANT,
            limit + 1,
        )
    page, next_cursor = paginate(rows, limit, lambda row: [row["user_id"]])
    return json(Page[UserView](items=[UserView.of(row) for row in page], next_cursor=next_cursor))


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
