"""What of tenants is not as their deployments left it."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from chassis.http.dependencies import CurrentService
from chassis.http.listing import list_page
from chassis.http.models import RowView
from chassis.http.pagination import Cursor, Limit, Page
from services.provisioning.api.deployments import Reader
from services.provisioning.domain.drift import Kind

router = APIRouter(prefix="/api/v1/deployments", tags=["Deployments"])


class DriftView(RowView):
    """Something that is not as it was left."""

    KEY = "drift_id"

    id: UUID
    tenant_id: UUID
    kind: str = Field(description=", ".join(Kind))
    detail: str = Field(description="What was seen.")
    remedy: str = Field(
        description="repair and repair_administrator are deployments, tell_again tells the end of one once more;"
        " report leaves it to a person"
    )
    deployment_id: UUID | None = Field(description="The deployment that repairs it, the last if there were more.")
    attempts: int = Field(description="How often the remedy was used.")
    found_at: datetime
    resolved_at: datetime | None = Field(description="Since when it is as it is to be again.")


@router.get("/drifts", response_model=Page[DriftView])
async def list_drifts(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    tenant_id: UUID | None = None,
    kind: Kind | None = None,
    resolved: Annotated[bool | None, Query(description="Only those that are resolved, or that are not.")] = None,
) -> Response:
    """List what was found not to be as deployments had left it, in the order in which it was found."""
    filters = {"tenant_id": tenant_id, "kind": kind, "(resolved_at is not null)": resolved}
    return await list_page(service, who, "drift", "drift_id", DriftView.of, limit, cursor, filters, everywhere=True)
