"""Deployments, to follow."""

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.fields import Text
from chassis.http.idempotency import idempotent
from chassis.http.listing import list_page
from chassis.http.models import RowView, Strict
from chassis.http.pagination import Cursor, Limit, Page
from chassis.http.problem import NotFound, Problem
from chassis.http.responses import json
from chassis.ids import made_at
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.tenant import GRACE_SECONDS
from dotmac_contracts.workspace import WorkspaceParameters
from services.provisioning import moves
from services.provisioning.domain.saga import Unknown
from services.provisioning.tables import COLUMNS
from services.provisioning.targets import TARGETS
from services.provisioning.use_cases import steer
from services.provisioning.use_cases.plan import plan

router = APIRouter(prefix="/api/v1/deployments", tags=["Deployments"])
Reader = Annotated[Principal, Depends(require("deployments:read"))]
Writer = Annotated[Principal, Depends(require("deployments:write"))]
Target = Literal["pooled", "process", "container"]
Operation = Literal[
    "deploy",
    "suspend",
    "maintain",
    "resume",
    "upgrade",
    "scale",
    "roll_back",
    "move",
    "deprovision",
    "repair",
    "repair_administrator",
]

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
    operation: str = Field(
        description="deploy, suspend, maintain, resume, upgrade, scale, roll_back, move, deprovision; nobody orders"
        " repair and repair_administrator"
    )
    status: str = Field(description="queued, waiting, running, compensating, succeeded or failed")
    failed_step: str | None
    reason: str | None = Field(description="Why it failed.")
    steps: list[StepView]
    template_id: UUID | None = Field(description="The template that it was ordered by.")
    parameters: WorkspaceParameters | None = Field(description="How workspaces are prepared, where it says so.")
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Any) -> Self:
        request = row["request"]
        ordered = {name: request.get(name) for name in ("template_id", "parameters")}
        return cls(
            id=row[cls.KEY], **ordered, **{name: row[name] for name in cls.model_fields.keys() - {"id", *ordered}}
        )


class PlannedStepView(BaseModel):
    """A step that a deployment would do."""

    name: str
    expected_seconds: float | None = Field(description="What it took most often; null if nobody knows yet.")
    timeout_seconds: float
    can_be_undone: bool


class PlanView(BaseModel):
    """What a deployment would do, and how long it will take."""

    target: str
    operation: str
    steps: list[PlannedStepView]
    expected_seconds: float | None = Field(description="Of all steps together; null if nobody knows yet.")
    known_from: int = Field(description="From how many deployments of the same kind that is known.")
    refusal: str | None = Field(
        default=None, description="Why no tenant can be deployed to this target here; null if it can."
    )


class Cancellation(Strict):
    """Why a deployment is given up."""

    reason: Text | None = None


_NO_REASON = Cancellation()


@router.get("", response_model=Page[DeploymentView])
async def list_deployments(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    tenant_id: UUID | None = None,
    status: Annotated[str | None, Query(pattern="^(queued|waiting|running|compensating|succeeded|failed)$")] = None,
) -> Response:
    """List deployments, in the order in which they were asked for."""
    filters, view = {"tenant_id": tenant_id, "status": status}, DeploymentView.of
    return await list_page(service, who, "deployment", "deployment_id", view, limit, cursor, filters, everywhere=True)


@router.get("/plan", response_model=PlanView)
async def preview_deployment(
    service: CurrentService,
    who: Reader,
    operation: Operation = "deploy",
    target: Target = "pooled",
    grace_seconds: Annotated[
        int | None,
        Query(ge=0, le=366 * 24 * 3600, description="Without it, as long as an order that does not say so waits."),
    ] = None,
) -> Response:
    """Preview what an operation would do, step by step, and how long it will take by what it took before."""
    if grace_seconds is None:
        grace_seconds = GRACE_SECONDS.get(operation, 0)
    try:
        async with service.db.for_tenant(who.tenant_id) as tx:
            found = await plan(tx, target, operation, timedelta(seconds=grace_seconds))
    except Unknown as error:
        raise Problem(422, "unknown-operation", f"There is no such plan: {error}.") from error
    steps = [
        PlannedStepView(
            name=step.name,
            expected_seconds=step.expected.total_seconds() if step.expected is not None else None,
            timeout_seconds=step.timeout.total_seconds(),
            can_be_undone=step.can_be_undone,
        )
        for step in found.steps
    ]
    known = [step.expected_seconds for step in steps if step.expected_seconds is not None]
    return json(
        PlanView(
            target=target,
            operation=operation,
            steps=steps,
            expected_seconds=sum(known) if len(known) == len(steps) else None,
            known_from=found.known_from,
            refusal=_refusal(operation, target),
        )
    )


def _refusal(operation: str, target: str) -> str | None:
    """Return why an operation that makes a place could not at this target; None if it could, or makes none."""
    if operation == "move":
        return moves.refusal(target) if target != "pooled" else None
    return TARGETS[target].refusal() if operation == "deploy" else None


@router.get("/{deployment_id}", response_model=DeploymentView)
async def get_deployment(service: CurrentService, who: Reader, deployment_id: UUID) -> Response:
    """Follow a deployment. One asked for a moment ago is waited for: its event may be under way."""
    return json(DeploymentView.of(await awaited(service, who, deployment_id)))


@router.post("/{deployment_id}/cancel", response_model=DeploymentView)
async def cancel_deployment(
    request: Request, service: CurrentService, who: Writer, deployment_id: UUID, body: Cancellation = _NO_REASON
) -> Response:
    """Give a deployment up that is not over: what it began is undone, and then it has failed."""

    async def end(tx: Transaction) -> Response:
        return json(DeploymentView.of(await steer.cancel(tx, service, deployment_id, body.reason)))

    return await idempotent(request, service, who, end)


@router.post("/{deployment_id}/retry", response_model=DeploymentView)
async def retry_deployment(request: Request, service: CurrentService, who: Writer, deployment_id: UUID) -> Response:
    """Try a deployment again that failed, from the first step that is not done or was undone."""

    async def again(tx: Transaction) -> Response:
        return json(DeploymentView.of(await steer.retry(tx, service, deployment_id)))

    return await idempotent(request, service, who, again)


async def awaited(service: Service, who: Principal, deployment_id: UUID) -> Any:
    """Return a deployment's row; one asked for a moment ago is waited for, else Problem 404."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (_PATIENCE_SECONDS if _is_young(service, deployment_id) else 0)
    while True:
        async with service.db.for_tenant(who.tenant_id) as tx:
            row = await tx.fetchrow(f"select {COLUMNS} from deployment where deployment_id = $1", deployment_id)
        if row is not None:
            return row
        if loop.time() >= deadline:
            raise NotFound("deployment", deployment_id)
        await asyncio.sleep(0.05)


def _is_young(service: Service, deployment_id: UUID) -> bool:
    made = made_at(deployment_id)
    return made is not None and abs(service.clock.now() - made) < _YOUNG
