"""Deployments, to follow."""

import asyncio
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.models import RowView
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.problem import NotFound
from chassis.http.responses import json
from chassis.ids import made_at
from chassis.security.principals import Principal
from chassis.service import Service
from services.provisioning.tables import COLUMNS

router = APIRouter(prefix="/api/v1/deployments", tags=["Deployments"])
Reader = Annotated[Principal, Depends(require("deployments:read"))]

_YOUNG = timedelta(seconds=30)
_PATIENCE_SECONDS = 10.0


class StepView(BaseModel):
    """A step of a deployment."""

    name: str
    status: str = Field(description="pending, running, succeeded, failed, compensating, compensated or stuck")
    started_at: datetime | None
    finished_at: datetime | None
    until: datetime | None = Field(default=None, description="For how long it waits, if that is all it does.")
    detail: str | None


class DeploymentView(RowView):
    """A deployment and its steps."""

    KEY = "deployment_id"

    id: UUID
    tenant_id: UUID
    target: str
    operation: str = Field(description="deploy, suspend, maintain or resume")
    status: str = Field(description="running, compensating, succeeded or failed")
    failed_step: str | None
    reason: str | None = Field(description="Why it failed.")
    steps: list[StepView]
    version: int
    created_at: datetime
    updated_at: datetime


@router.get("", response_model=Page[DeploymentView])
async def list_deployments(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    tenant_id: UUID | None = None,
    status: Annotated[str | None, Query(pattern="^(running|compensating|succeeded|failed)$")] = None,
) -> Response:
    """List deployments, in the order in which they were asked for."""
    after = decode_cursor(cursor, UUID)
    async with service.db.for_tenant(who.tenant_id) as tx:
        rows = await tx.fetch(
            f"select {COLUMNS} from deployment where ($1::uuid is null or deployment_id > $1)"
            " and ($2::uuid is null or tenant_id = $2) and ($3::text is null or status = $3)"
            " order by deployment_id limit $4",
            after[0] if after else None,
            tenant_id,
            status,
            limit + 1,
        )
    page, next_cursor = paginate(rows, limit, lambda row: [row["deployment_id"]])
    return json(Page[DeploymentView](items=[DeploymentView.of(row) for row in page], next_cursor=next_cursor))


@router.get("/{deployment_id}", response_model=DeploymentView)
async def get_deployment(service: CurrentService, who: Reader, deployment_id: UUID) -> Response:
    """Follow a deployment. One asked for a moment ago is waited for: its event may be under way."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (_PATIENCE_SECONDS if _is_young(service, deployment_id) else 0)
    while True:
        async with service.db.for_tenant(who.tenant_id) as tx:
            row = await tx.fetchrow(f"select {COLUMNS} from deployment where deployment_id = $1", deployment_id)
        if row is not None:
            return json(DeploymentView.of(row))
        if loop.time() >= deadline:
            raise NotFound("deployment", deployment_id)
        await asyncio.sleep(0.05)


def _is_young(service: Service, deployment_id: UUID) -> bool:
    made = made_at(deployment_id)
    return made is not None and abs(service.clock.now() - made) < _YOUNG
