"""ISPs that signed up by themselves, and what the platform says to it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.idempotency import idempotent
from chassis.http.listing import list_page, one
from chassis.http.pagination import Cursor, Limit, Page
from chassis.http.problem import Problem
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from services.tenant.api.models import (
    Approval,
    Approved,
    Rejection,
    SignUpView,
    TenantRegistration,
    TenantView,
    UserInvitationView,
)
from services.tenant.domain.tenant import Profile, Refused
from services.tenant.use_cases import sign_up

router = APIRouter(prefix="/api/v1", tags=["Sign-up"])
Reader = Annotated[Principal, Depends(require("tenants:read"))]
Writer = Annotated[Principal, Depends(require("tenants:write"))]
_SIGN_UP = "/sign-ups/{sign_up_id}"


@router.post("/auth/sign-ups", status_code=202, response_class=Response)
async def sign_up_tenant(service: CurrentService, body: TenantRegistration) -> Response:
    """Sign an ISP up, for the platform to approve. The answer is the same whatever is known of it already."""
    try:
        await sign_up.sign_up(service, Profile(**body.model_dump()))
    except Refused as error:
        raise Problem(422, "invalid-tenant", f"{error}.") from error
    return Response(status_code=202)


@router.get("/sign-ups", response_model=Page[SignUpView])
async def list_sign_ups(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    status: Annotated[str | None, Query(pattern="^(pending|approved|rejected)$")] = None,
) -> Response:
    """List the sign-ups, the oldest first."""
    return await list_page(service, who, "sign_up", "sign_up_id", SignUpView.of, limit, cursor, {"status": status})


@router.get(_SIGN_UP, response_model=SignUpView)
async def get_sign_up(service: CurrentService, who: Reader, sign_up_id: UUID) -> Response:
    """Read a sign-up."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        return json(SignUpView.of(await one(tx, who, "sign_up", "sign_up_id", sign_up_id, "sign-up")))


@router.post(f"{_SIGN_UP}/approve", status_code=201, response_model=Approved)
async def approve_sign_up(
    request: Request, service: CurrentService, who: Writer, sign_up_id: UUID, body: Approval
) -> Response:
    """Register the tenant and invite its administrator, whose token is told this once. It is deployed as any other."""

    async def decide(tx: Transaction) -> Response:
        try:
            row, invitation = await sign_up.approve(tx, service, who, sign_up_id, body.model_dump(exclude_none=True))
        except Refused as error:
            raise Problem(422, "invalid-tenant", f"{error}.") from error
        view = Approved(tenant=TenantView.of(row), invitation=UserInvitationView.shown(invitation))
        headers = {"Location": f"/api/v1/tenants/{view.tenant.id}", "Cache-Control": "no-store"}
        return json(view, 201, headers)

    return await idempotent(request, service, who, decide)


@router.post(f"{_SIGN_UP}/reject", response_model=SignUpView)
async def reject_sign_up(
    request: Request, service: CurrentService, who: Writer, sign_up_id: UUID, body: Rejection
) -> Response:
    """Turn a sign-up down; whoever sent it may sign up again."""

    async def decide(tx: Transaction) -> Response:
        await sign_up.reject(tx, service, who, sign_up_id, body.reason)
        return json(SignUpView.of(await one(tx, who, "sign_up", "sign_up_id", sign_up_id, "sign-up")))

    return await idempotent(request, service, who, decide)
