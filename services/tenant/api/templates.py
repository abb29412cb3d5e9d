"""Templates of deployments."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.idempotency import idempotent
from chassis.http.listing import list_page, one
from chassis.http.pagination import Cursor, Limit, Page
from chassis.http.preconditions import etag
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from services.tenant.api.models import (
    DeploymentPreview,
    PreviewData,
    TemplateChange,
    TemplateData,
    TemplateView,
)
from services.tenant.use_cases.change_template import (
    change_template,
    create_template,
    delete_template,
    parameters_of,
)

router = APIRouter(prefix="/api/v1", tags=["Deployment templates"])
Reader = Annotated[Principal, Depends(require("tenants:read"))]
Writer = Annotated[Principal, Depends(require("deployments:write"))]
_TEMPLATE = "/deployment-templates/{template_id}"


@router.post("/deployment-templates", status_code=201, response_model=TemplateView)
async def create_deployment_template(
    request: Request, service: CurrentService, who: Writer, body: TemplateData
) -> Response:
    """Make a template that tenants can be deployed by."""

    async def create(tx: Transaction) -> Response:
        facts = {**body.model_dump(), "parameters": body.parameters.given()}
        view = TemplateView.of(await create_template(tx, service, who, facts))
        return json(view, 201, {"Location": f"/api/v1/deployment-templates/{view.id}", "ETag": etag(view.version)})

    return await idempotent(request, service, who, create)


@router.get("/deployment-templates", response_model=Page[TemplateView])
async def list_deployment_templates(
    service: CurrentService, who: Reader, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """List the templates, the oldest first."""
    return await list_page(service, who, "deployment_template", "template_id", TemplateView.of, limit, cursor, {})


@router.get(_TEMPLATE, response_model=TemplateView)
async def get_deployment_template(service: CurrentService, who: Reader, template_id: UUID) -> Response:
    """Read a template."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await one(tx, who, "deployment_template", "template_id", template_id, "deployment template")
    return json(TemplateView.of(row), headers={"ETag": etag(row["version"])})


@router.patch(_TEMPLATE, response_model=TemplateView)
async def update_deployment_template(
    request: Request, service: CurrentService, who: Writer, template_id: UUID, body: TemplateChange
) -> Response:
    """Change a template; send its ETag as If-Match. Tenants that were deployed by it stay as they are."""
    changes = body.model_dump(exclude_unset=True)
    if "parameters" in changes:
        changes["parameters"] = body.parameters.given()
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await change_template(tx, service, request, who, template_id, changes)
    return json(TemplateView.of(row), headers={"ETag": etag(row["version"])})


@router.delete(_TEMPLATE, status_code=204, response_class=Response)
async def remove_deployment_template(service: CurrentService, who: Writer, template_id: UUID) -> Response:
    """Delete a template. Tenants that were deployed by it stay as they are."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        await delete_template(tx, service, who, template_id)
    return Response(status_code=204)


@router.post(f"{_TEMPLATE}/preview", response_model=DeploymentPreview)
async def preview_order(
    request: Request, service: CurrentService, who: Writer, template_id: UUID, body: PreviewData
) -> Response:
    """Say what an order by a template would have deployed; nothing is.

    What steps it would take, and for how long, GET /api/v1/deployments/plan says.
    """

    async def resolve(tx: Transaction) -> Response:
        row = await one(tx, who, "deployment_template", "template_id", template_id, "deployment template")
        given = parameters_of(row, body.parameters.given())
        return json(DeploymentPreview(target=row["target"], plan=row["plan"], parameters=given))

    return await idempotent(request, service, who, resolve)
