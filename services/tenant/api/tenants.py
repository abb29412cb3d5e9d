"""Tenants and their deployments."""

from dataclasses import asdict
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.fields import PLAIN
from chassis.http.idempotency import idempotent
from chassis.http.listing import list_page
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.preconditions import etag
from chassis.http.problem import NotFound, Problem
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from services.tenant.api.models import (
    DeploymentAccepted,
    DeploymentOrder,
    InvitationView,
    OperationOrder,
    Plans,
    PlanView,
    TenantChange,
    TenantRegistration,
    TenantView,
    TransitionView,
)
from services.tenant.domain.plans import PLANS
from services.tenant.domain.tenant import Profile, Refused, Status
from services.tenant.tables import TENANT_COLUMNS
from services.tenant.use_cases.invite import invite_administrator
from services.tenant.use_cases.register_tenant import register_tenant
from services.tenant.use_cases.request_deployment import Asked, request_deployment
from services.tenant.use_cases.update_tenant import update_tenant

_ANY_STATUS = f"^({'|'.join(Status)})$"
router = APIRouter(prefix="/api/v1", tags=["Tenants"])
Reader = Annotated[Principal, Depends(require("tenants:read"))]
Writer = Annotated[Principal, Depends(require("tenants:write"))]
Deployer = Annotated[Principal, Depends(require("deployments:write"))]


@router.post("/tenants", status_code=201, response_model=TenantView)
async def create_tenant(request: Request, service: CurrentService, who: Writer, body: TenantRegistration) -> Response:
    """Register an ISP."""

    async def create(tx: Transaction) -> Response:
        try:
            view = TenantView.of(await register_tenant(tx, service, Profile(**body.model_dump()), who.subject))
        except Refused as error:
            raise Problem(422, "invalid-tenant", f"{error}.") from error
        return json(view, 201, {"Location": f"/api/v1/tenants/{view.id}", "ETag": etag(view.version)})

    return await idempotent(request, service, who, create)


@router.get("/tenants", response_model=Page[TenantView])
async def list_tenants(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    status: Annotated[
        str | None,
        Query(pattern=_ANY_STATUS),
    ] = None,
    slug: Annotated[str | None, Query(max_length=40, pattern=PLAIN)] = None,
) -> Response:
    """List tenants, in the order in which they were registered."""
    filters, view = {"status": status, "slug": slug}, TenantView.of
    return await list_page(service, who, "tenant", "tenant_id", view, limit, cursor, filters, everywhere=True)


@router.get("/tenants/plans", response_model=Plans)
async def list_tenant_plans(who: Reader) -> Response:
    """List the plans that a tenant can be on, and what each allows."""
    return json(Plans(items=[PlanView(code=code, **asdict(quotas)) for code, quotas in PLANS.items()]))


@router.get("/tenants/{tenant_id}", response_model=TenantView)
async def get_tenant(service: CurrentService, who: Reader, tenant_id: UUID) -> Response:
    """Read a tenant."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await tx.fetchrow(f"select {TENANT_COLUMNS} from tenant where tenant_id = $1", tenant_id)
    if row is None:
        raise NotFound("tenant", tenant_id)
    return json(TenantView.of(row), headers={"ETag": etag(row["version"])})


@router.get("/tenants/{tenant_id}/transitions", response_model=Page[TransitionView])
async def list_transitions(
    service: CurrentService, who: Reader, tenant_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """List the changes of a tenant's status, the first one first."""
    after = decode_cursor(cursor, int)
    async with service.db.for_tenant(who.tenant_id) as tx:
        if not await tx.fetchval("select 1 from tenant where tenant_id = $1", tenant_id):
            raise NotFound("tenant", tenant_id)
        rows = await tx.fetch(
            "select version, from_status, to_status, deployment_id, reason, requested_by, made_at"
            " from tenant_transition where tenant_id = $1 and version > $2 order by version limit $3",
            tenant_id,
            after[0] if after else 0,
            limit + 1,
        )
    page, next_cursor = paginate(rows, limit, lambda row: [row["version"]])
    items = [TransitionView(**dict(row)) for row in page]
    return json(Page[TransitionView](items=items, next_cursor=next_cursor))


@router.patch("/tenants/{tenant_id}", response_model=TenantView)
async def change_tenant(
    request: Request, service: CurrentService, who: Writer, tenant_id: UUID, body: TenantChange
) -> Response:
    """Change what is known of a tenant; send its ETag as If-Match."""
    changes = body.model_dump(exclude_none=True)
    try:
        async with service.db.for_tenant(who.tenant_id) as tx:
            row = await update_tenant(tx, service, request, tenant_id, changes)
    except Refused as error:
        raise Problem(422, "invalid-tenant", f"{error}.") from error
    return json(TenantView.of(row), headers={"ETag": etag(row["version"])})


_DEPLOY = OperationOrder()
_FOLLOWED: dict[int | str, dict[str, Any]] = {
    202: {
        "links": {
            "get_deployment": {
                "operationId": "get_deployment",
                "parameters": {"deployment_id": "$response.body#/deployment_id"},
            }
        }
    }
}


def _asked(body: OperationOrder) -> Asked:
    facts = body.model_dump(exclude={"parameters"})
    return Asked(**facts, parameters=None if body.parameters is None else body.parameters.given())


async def _order(request: Request, service: Service, who: Principal, tenant_id: UUID, body: OperationOrder) -> Response:
    async def order(tx: Transaction) -> Response:
        try:
            deployment_id = await request_deployment(tx, service, tenant_id, who.subject, _asked(body))
        except Refused as error:
            raise Problem(409, "wrong-state", f"It can't be done now: {error}.") from error
        accepted = DeploymentAccepted(deployment_id=deployment_id, tenant_id=tenant_id)
        return json(accepted, 202, {"Location": f"/api/v1/deployments/{deployment_id}"})

    return await idempotent(request, service, who, order)


@router.post(
    "/tenants/{tenant_id}/deployments", status_code=202, response_model=DeploymentAccepted, responses=_FOLLOWED
)
async def deploy_tenant(
    request: Request, service: CurrentService, who: Deployer, tenant_id: UUID, body: OperationOrder = _DEPLOY
) -> Response:
    """Ask for an operation on a tenant, which is a deployment; follow it at the Location.

    deploy: a tenant that is registered, or whose deployment failed. suspend, maintain: an active one, whose users are
    refused from then on (403) with the reason. resume: one that is suspended or in maintenance.
    upgrade, scale, roll_back: the instances that a tenant has of its own are replaced, without a request lost, by
    others of a release, by more or fewer, or by such as they were before the last of these.
    move: one that is deployed goes to another target with all its data, while its users work on.
    deprovision: nobody uses it any more; after the grace its data is written down, deleted, and counted. One at a time.

    To deploy by a template, name it, and the parameters that are to be otherwise than it says.
    """
    return await _order(request, service, who, tenant_id, body)


@router.post("/deploy", status_code=202, response_model=DeploymentAccepted, responses=_FOLLOWED)
async def deploy(request: Request, service: CurrentService, who: Deployer, body: DeploymentOrder) -> Response:
    """Ask for a tenant's deployment: the short form."""
    return await _order(request, service, who, body.tenant_id, _DEPLOY)


@router.post("/tenants/{tenant_id}/invitations", status_code=201, response_model=InvitationView)
async def invite(request: Request, service: CurrentService, who: Writer, tenant_id: UUID) -> Response:
    """Invite the tenant's first administrator; a new invitation ends the ones before."""

    async def create(tx: Transaction) -> Response:
        invitation = await invite_administrator(tx, service, who, tenant_id)
        view = InvitationView(token=invitation.token, email=invitation.email, expires_at=invitation.expires_at)
        return json(view, 201, {"Cache-Control": "no-store"})

    return await idempotent(request, service, who, create)
