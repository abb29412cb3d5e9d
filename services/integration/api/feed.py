"""A tenant's own events, as they come: Server-Sent Events, each a CloudEvent in JSON."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import format_sse_event
from starlette.responses import Response, StreamingResponse

from chassis.http.dependencies import CurrentService, require
from chassis.http.document import problems
from chassis.http.problem import Problem
from chassis.messaging.consumer import TRANSIENT
from chassis.security.principals import Principal
from chassis.service import Service
from services.integration import metrics
from services.integration.api.models import EventType
from services.integration.use_cases.read_feed import Reading, newest, read_on
from services.integration.use_cases.record_events import FEED_CHANNEL

router = APIRouter(prefix="/api/v1", tags=["Events"])
Reader = Annotated[Principal, Depends(require("events:read"))]
Types = Annotated[
    list[EventType], Query(alias="type", max_length=100, description="Types of events, repeated; all without any.")
]

HEARTBEAT_SECONDS = 10.0
_RETRY_MILLISECONDS = 2000
_LARGEST_POSITION = 2**63 - 1


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events as they come, until the token expires, the tenant or the connection is closed.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems(410),
    },
)
async def stream_events(
    service: CurrentService,
    who: Reader,
    types: Types = [],  # noqa: B006
    after: Annotated[
        int | None, Query(ge=0, le=_LARGEST_POSITION, description="Begin after this position: 0 is all that is kept.")
    ] = None,
    last_event_id: Annotated[
        str | None,
        Header(pattern="^[0-9]{1,19}$", description="The id of the last event that arrived, as EventSource sends it."),
    ] = None,
) -> Response:
    """Receive the tenant's own events as they come, each once and in order (Server-Sent Events).

    The id of an event is its position. Whoever comes back with it as Last-Event-ID goes on where they were; without
    one, and without `after`, what comes from now on is sent. Events are kept for a week: 410 if some are gone that
    would have been sent. A heartbeat comes every ten seconds, with the position up to which there was nothing to send.
    """
    position = int(last_event_id) if last_event_id is not None else after
    if position is None:
        position = await newest(service, who.tenant_id)
    first = await read_on(service, who.tenant_id, position, types)
    # Not to be stored on the way, nor held back until there is more of it.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(service, who, position, first, types), 200, headers, "text/event-stream")


async def _stream(
    service: Service, who: Principal, position: int, reading: Reading, types: list[str]
) -> AsyncIterator[bytes]:
    listener = service.listeners[FEED_CHANNEL]
    with metrics.STREAMS.track_inprogress(), listener.watching(str(who.tenant_id)) as changed:
        changed.set()  # by what has come since it was first read
        yield format_sse_event(id=str(position), retry=_RETRY_MILLISECONDS)
        while (
            not listener.ending
            and not service.standings.is_closed(who.tenant_id)
            and (left := (who.expires_at - service.clock.now()).total_seconds()) > 0
        ):
            for number, document in reading.events:
                yield format_sse_event(data_str=document.decode(), id=str(number))
            position = reading.position
            if not reading.more and not await _changes(changed, min(left, HEARTBEAT_SECONDS)):
                yield format_sse_event(comment="heartbeat", id=str(position))
            changed.clear()
            try:
                reading = await read_on(service, who.tenant_id, position, types)
            except (Problem, *TRANSIENT):
                return  # the database is away, or the reader a week behind: it is told when it comes back


async def _changes(changed: asyncio.Event, seconds: float) -> bool:
    """Wait for a change; return whether there was one within so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()
    return changed.is_set()
