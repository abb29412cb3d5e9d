"""A tenant's own events, as they come: Server-Sent Events, each a CloudEvent in JSON."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import format_sse_event
from starlette.responses import Response, StreamingResponse

from chassis.http.dependencies import CurrentService, require
from chassis.http.document import problems
from chassis.http.event_stream import EventStream, Reading
from chassis.security.principals import Principal
from services.integration import metrics
from services.integration.api.models import EventType
from services.integration.use_cases.read_feed import MOST_AT_ONCE, newest, read_on
from services.integration.use_cases.record_events import FEED_CHANNEL

router = APIRouter(prefix="/api/v1", tags=["Events"])
Reader = Annotated[Principal, Depends(require("events:read"))]
Types = Annotated[
    list[EventType], Query(alias="type", max_length=100, description="Types of events, repeated; all without any.")
]

_RETRY_MILLISECONDS = 2000
_LARGEST_POSITION = 2**63 - 1


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events as they come, until the token expires or is revoked, the tenant or the connection is"
            " closed.",
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

    Events about what the token has no scope to read are left out, also if their types are asked for: those of customers
    without `customers:read`, those of billing without `billing:read`.
    """
    position = int(last_event_id) if last_event_id is not None else after
    if position is None:
        position = await newest(service, who.tenant_id)

    async def read(after: int) -> Reading:
        events, up_to = await read_on(service, who, after, types)
        sent = [format_sse_event(data_str=document.decode(), id=str(number)) for number, document in events]
        return Reading(sent, up_to, more=len(events) == MOST_AT_ONCE)

    counted = metrics.STREAMS.track_inprogress()
    stream = EventStream(service, who, FEED_CHANNEL, str(who.tenant_id), read, _RETRY_MILLISECONDS, counted)
    return stream.response(position, await read(position))
