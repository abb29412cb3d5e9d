"""What of tenants is not as their deployments left it."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from chassis.http.dependencies import CurrentService
from chassis.http.models import RowView
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.responses import json
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
    after = decode_cursor(cursor, UUID)
    async with service.db.for_tenant(who.tenant_id) as tx:
        rows = await tx.fetch(
            "select * from drift where ($1::uuid is null or drift_id > $1) and ($2::uuid is null or tenant_id = $2)"
            " and ($3::text is null or kind = $3) and ($4::bool is null or (resolved_at is not null) = $4)"
            " order by drift_id limit $5",
            after[0] if after else None,
            tenant_id,
            kind,
            resolved,
            limit + 1,
        )
    page, next_cursor = paginate(rows, limit, lambda row: [row["drift_id"]])
    return json(Page[DriftView](items=[DriftView.of(row) for row in page], next_cursor=next_cursor))
