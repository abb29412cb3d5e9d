"""How a deployment goes, as it goes: its log, step by step, to read or to follow."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from chassis.http.dependencies import CurrentService
from chassis.http.event_stream import EventStream, Reading
from chassis.http.fields import PLAIN
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.responses import json
from chassis.security.principals import Principal
from chassis.service import Service
from services.provisioning.api.deployments import Reader, awaited
from services.provisioning.use_cases.advance import ENDED, PROGRESS_CHANNEL

router = APIRouter(prefix="/api/v1/deployments", tags=["Deployments"])

_RETRY_MILLISECONDS = 1000
_AT_ONCE = 200


class EntryView(BaseModel):
    """A line of a deployment's log."""

    position: int
    made_at: datetime
    step: str | None = Field(description="Null where it is about the deployment itself.")
    status: str = Field(description="Of the step, or of the deployment, from then on.")
    message: str | None


@router.get("/{deployment_id}/log", response_model=Page[EntryView])
async def read_deployment_log(
    service: CurrentService,
    who: Reader,
    deployment_id: UUID,
    limit: Limit = 50,
    cursor: Cursor = None,
    step: Annotated[str | None, Query(max_length=100, pattern=PLAIN, description="Only of this step.")] = None,
) -> Response:
    """Read a deployment's log, the oldest line first."""
    after = decode_cursor(cursor, int)
    row = await awaited(service, who, deployment_id)
    rows = await _read(service, who, row, after[0] if after else 0, limit + 1, step)
    page, next_cursor = paginate(rows, limit, lambda entry: [entry["position"]])
    return json(Page[EntryView](items=[EntryView(**dict(entry)) for entry in page], next_cursor=next_cursor))


@router.get(
    "/{deployment_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The lines of its log as they come, until it is over, the token expires or is revoked or"
            " the connection is closed.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "It is over, and all of it was sent before: don't come back."},
    },
)
async def follow_deployment(
    service: CurrentService,
    who: Reader,
    deployment_id: UUID,
    last_event_id: Annotated[
        str | None,
        Header(pattern="^[0-9]{1,9}$", description="The id of the last event that arrived, as EventSource sends it."),
    ] = None,
) -> Response:
    """Follow a deployment's log as it is written (Server-Sent Events), from its beginning.

    The id of an event is its position. Whoever comes back with it as Last-Event-ID goes on where they were, and is
    answered 204 when there is nothing more to come. A heartbeat comes every ten seconds.
    """
    row = await awaited(service, who, deployment_id)
    position, read = int(last_event_id or 0), _read_on(service, who, row)
    first = await read(position)
    if not first.events and row["status"] in ENDED:
        return Response(status_code=204)
    stream = EventStream(service, who, PROGRESS_CHANNEL, str(deployment_id), read, _RETRY_MILLISECONDS)
    return stream.response(position, first)


def _read_on(service: Service, who: Principal, row: Any) -> Callable[[int], Awaitable[Reading]]:
    async def read(position: int) -> Reading:
        views = [EntryView(**dict(entry)) for entry in await _read(service, who, row, position, _AT_ONCE)]
        sent = [
            format_sse_event(event="progress", data_str=view.model_dump_json(), id=str(view.position)) for view in views
        ]
        # Unless it was tried again meanwhile, nothing more will come.
        over = bool(views) and views[-1].step is None and views[-1].status in ENDED
        return Reading(sent, views[-1].position if views else position, more=bool(views), over=over)

    return read


async def _read(
    service: Service, who: Principal, row: Any, after: int, limit: int, step: str | None = None
) -> list[Any]:
    async with service.db.for_tenant(who.tenant_id) as tx:
        return await tx.fetch(
            "select position, made_at, step, status, message from deployment_log where tenant_id = $1"
            " and deployment_id = $2 and position > $3 and ($5::text is null or step = $5) order by position limit $4",
            row["tenant_id"],
            row["deployment_id"],
            after,
            limit,
            step,
        )
