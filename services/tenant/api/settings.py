"""A tenant's settings, by category."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.preconditions import etag
from chassis.http.responses import json
from chassis.security.principals import Principal
from services.tenant.api.models import SettingsChange, SettingsOfCategory, SettingsView
from services.tenant.use_cases.change_settings import category_of, change_settings, kept

router = APIRouter(prefix="/api/v1", tags=["Settings"])
Reader = Annotated[Principal, Depends(require("settings:read"))]
Writer = Annotated[Principal, Depends(require("settings:write"))]
Category = Annotated[str, Path(max_length=64, examples=["billing"])]


@router.get("/settings", response_model=SettingsView)
async def list_settings(service: CurrentService, who: Reader) -> Response:
    """List the tenant's settings of all categories; to the platform's users those of the platform."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        found = await kept(tx, who.tenant_id)
    return json(SettingsView(items=[SettingsOfCategory.of(name, given) for name, given in found.items()]))


@router.get("/settings/{category}", response_model=SettingsOfCategory)
async def get_settings(service: CurrentService, who: Reader, category: Category) -> Response:
    """Read the settings of a category. What a secret one is, is shown to nobody."""
    category_of(category)
    async with service.db.for_tenant(who.tenant_id) as tx:
        found = (await kept(tx, who.tenant_id))[category]
    return json(SettingsOfCategory.of(category, found), headers={"ETag": etag(found.version)})


@router.patch("/settings/{category}", response_model=SettingsOfCategory)
async def update_settings(
    request: Request, service: CurrentService, who: Writer, category: Category, body: SettingsChange
) -> Response:
    """Change settings of a category, and leave those as they are that are not named; null sets back to the default.

    Send the ETag of what you read as If-Match.
    """
    async with service.db.for_tenant(who.tenant_id) as tx:
        after = await change_settings(tx, service, request, who.tenant_id, who.subject, category, body.root)
    return json(SettingsOfCategory.of(category, after), headers={"ETag": etag(after.version)})
