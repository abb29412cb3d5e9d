"""How a deployment goes, as it goes: its log, step by step, to read or to follow."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from chassis.http.dependencies import CurrentService
from chassis.http.fields import PLAIN
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.responses import json
from chassis.messaging.consumer import TRANSIENT
from chassis.security.principals import Principal
from chassis.service import Service
from services.provisioning.api.deployments import Reader, awaited
from services.provisioning.use_cases.advance import ENDED, PROGRESS_CHANNEL

router = APIRouter(prefix="/api/v1/deployments", tags=["Deployments"])

HEARTBEAT_SECONDS = 10.0
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
            "description": "The lines of its log as they come, until it is over, the token expires or the connection"
            " is closed.",
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
    position = int(last_event_id or 0)
    entries = await _read(service, who, row, position, _AT_ONCE)
    if not entries and row["status"] in ENDED:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(service, who, row, position, entries), 200, headers, "text/event-stream")


async def _stream(
    service: Service, who: Principal, row: Any, position: int, entries: list[Any]
) -> AsyncIterator[bytes]:
    listener = service.listeners[PROGRESS_CHANNEL]
    with listener.watching(str(row["deployment_id"])) as changed:
        changed.set()  # by what has come since it was first read
        yield format_sse_event(id=str(position), retry=_RETRY_MILLISECONDS)
        while not listener.ending and not service.standings.is_closed(who.tenant_id):
            for entry in entries:
                view = EntryView(**dict(entry))
                position = view.position
                yield format_sse_event(event="progress", data_str=view.model_dump_json(), id=str(position))
                # Unless it was tried again meanwhile, nothing more will come.
                if view.step is None and view.status in ENDED and entry is entries[-1]:
                    return
            left = (who.expires_at - service.clock.now()).total_seconds()
            if left <= 0:
                return
            if not entries and not await _changes(changed, min(left, HEARTBEAT_SECONDS)):
                yield format_sse_event(comment="heartbeat", id=str(position))
            changed.clear()
            try:
                entries = await _read(service, who, row, position, _AT_ONCE)
            except TRANSIENT:
                return  # the database is away: whoever comes back goes on where they were


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


async def _changes(changed: asyncio.Event, seconds: float) -> bool:
    """Wait for a change; return whether there was one within so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()
    return changed.is_set()
