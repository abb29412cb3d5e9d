"""Roles: those that every tenant has, and those that a tenant defines itself."""

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
from services.tenant.api.models import BuiltInRole, BuiltInRoles, RoleChange, RoleData, RoleView
from services.tenant.use_cases.authorize import built_in_roles
from services.tenant.use_cases.change_role import change_role, create_role, delete_role

router = APIRouter(prefix="/api/v1", tags=["Roles"])
Reader = Annotated[Principal, Depends(require("roles:read"))]
Writer = Annotated[Principal, Depends(require("roles:write"))]


@router.get("/built-in-roles", response_model=BuiltInRoles)
async def list_built_in_roles(who: Reader) -> Response:
    """List the roles that every tenant has; to the platform's users those that the platform has."""
    roles = built_in_roles(who.tenant_id).items()
    return json(BuiltInRoles(items=[BuiltInRole(name=name, scopes=sorted(scopes)) for name, scopes in roles]))


@router.post("/roles", status_code=201, response_model=RoleView)
async def create_custom_role(request: Request, service: CurrentService, who: Writer, body: RoleData) -> Response:
    """Define a role of the tenant's own."""

    async def create(tx: Transaction) -> Response:
        row = await create_role(tx, service, who, body.name, body.description, body.scopes)
        view = RoleView.of(row)
        return json(view, 201, {"Location": f"/api/v1/roles/{view.id}", "ETag": etag(view.version)})

    return await idempotent(request, service, who, create)


@router.get("/roles", response_model=Page[RoleView])
async def list_roles(service: CurrentService, who: Reader, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """List the roles of the tenant's own."""
    return await list_page(service, who, "role", "role_id", RoleView.of, limit, cursor, {})


@router.get("/roles/{role_id}", response_model=RoleView)
async def get_role(service: CurrentService, who: Reader, role_id: UUID) -> Response:
    """Read a role of the tenant's own."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await one(tx, who, "role", "role_id", role_id, "role")
    return json(RoleView.of(row), headers={"ETag": etag(row["version"])})


@router.patch("/roles/{role_id}", response_model=RoleView)
async def update_role(
    request: Request, service: CurrentService, who: Writer, role_id: UUID, body: RoleChange
) -> Response:
    """Change what a role of the tenant's own allows; send its ETag as If-Match."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await change_role(tx, service, request, who, role_id, body.model_dump(exclude_unset=True))
    return json(RoleView.of(row), headers={"ETag": etag(row["version"])})


@router.delete("/roles/{role_id}", status_code=204, response_class=Response)
async def remove_role(service: CurrentService, who: Writer, role_id: UUID) -> Response:
    """Delete a role of the tenant's own that nobody has."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        await delete_role(tx, service, who, role_id)
    return Response(status_code=204)
