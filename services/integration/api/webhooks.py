"""Webhook endpoints and deliveries."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.idempotency import idempotent
from chassis.http.listing import list_page, one
from chassis.http.pagination import Cursor, Limit, Page
from chassis.http.preconditions import etag, require_match
from chassis.http.problem import Unprocessable
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from services.integration.api.models import (
    AttemptView,
    DeliveryDetail,
    DeliveryView,
    EndpointChange,
    EndpointData,
    EndpointView,
    EndpointWithSecret,
    Replayed,
    Rotation,
    Span,
)
from services.integration.domain.guards import guards_of
from services.integration.tables import lock_endpoint
from services.integration.use_cases.change_endpoint import (
    create_endpoint,
    delete_endpoint,
    rotate_secret,
    update_endpoint,
)
from services.integration.use_cases.replay_deliveries import replay_delivery, replay_span

router = APIRouter(prefix="/api/v1", tags=["Webhooks"])
Reader = Annotated[Principal, Depends(require("webhooks:read"))]
Writer = Annotated[Principal, Depends(require("webhooks:write"))]
_ENDPOINT = "/webhook-endpoints/{endpoint_id}"
_DELIVERY = "/webhook-deliveries/{delivery_id}"


@router.post("/webhook-endpoints", status_code=201, response_model=EndpointWithSecret)
async def create_webhook_endpoint(
    request: Request, service: CurrentService, who: Writer, body: EndpointData
) -> Response:
    """Have events sent to a URL, signed by the Standard Webhooks specification. The secret is told this once.

    403 without the scopes to read events of these types.
    """

    async def create(tx: Transaction) -> Response:
        row, secret = await create_endpoint(tx, service, who, body.model_dump())
        view = EndpointWithSecret.with_secret(row, secret)
        return json(view, 201, {"Location": f"/api/v1/webhook-endpoints/{view.id}", "ETag": etag(1)})

    return await idempotent(request, service, who, create)


@router.get("/webhook-endpoints", response_model=Page[EndpointView])
async def list_webhook_endpoints(
    service: CurrentService, who: Reader, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """List webhook endpoints."""
    return await list_page(service, who, "webhook_endpoint", "endpoint_id", EndpointView.of, limit, cursor, {})


@router.get(_ENDPOINT, response_model=EndpointView)
async def get_webhook_endpoint(service: CurrentService, who: Reader, endpoint_id: UUID) -> Response:
    """Read a webhook endpoint."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await one(tx, who, "webhook_endpoint", "endpoint_id", endpoint_id, "webhook endpoint")
    return json(EndpointView.of(row), headers={"ETag": etag(row["version"])})


@router.patch(_ENDPOINT, response_model=EndpointView)
async def change_webhook_endpoint(
    request: Request, service: CurrentService, who: Writer, endpoint_id: UUID, body: EndpointChange
) -> Response:
    """Change, disable or enable a webhook endpoint; send its ETag as If-Match.

    What waits for one that is disabled fails. Once it is enabled again, a replay brings what it missed. 403 without the
    scopes to read what it is sent, before the change and after it.
    """
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await lock_endpoint(tx, who.tenant_id, endpoint_id)
        require_match(request, row["version"])
        row = await update_endpoint(tx, service, who, row, body.model_dump(exclude_unset=True))
    return json(EndpointView.of(row), headers={"ETag": etag(row["version"])})


@router.delete(_ENDPOINT, status_code=204, response_class=Response)
async def delete_webhook_endpoint(service: CurrentService, who: Writer, endpoint_id: UUID) -> Response:
    """Delete a webhook endpoint, with what waits for it and the log of its deliveries."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        await delete_endpoint(tx, service, who.tenant_id, endpoint_id)
    return Response(status_code=204)


@router.post(f"{_ENDPOINT}/rotate-secret", response_model=EndpointWithSecret)
async def rotate_webhook_secret(
    request: Request, service: CurrentService, who: Writer, endpoint_id: UUID, body: Rotation
) -> Response:
    """Give a webhook endpoint another secret; for a while events are signed by the old one as well.

    403 without the scopes to read what it is sent.
    """

    async def rotate(tx: Transaction) -> Response:
        overlap = timedelta(hours=body.overlap_hours)
        row, secret = await rotate_secret(tx, service, who, endpoint_id, overlap)
        return json(EndpointWithSecret.with_secret(row, secret), headers={"ETag": etag(row["version"])})

    return await idempotent(request, service, who, rotate)


@router.post(f"{_ENDPOINT}/replay", status_code=202, response_model=Replayed)
async def replay_webhook_events(
    request: Request, service: CurrentService, who: Writer, endpoint_id: UUID, body: Span
) -> Response:
    """Send the events of a span of time again, in their order, behind those that wait; each keeps its id.

    403 without the scopes to read what the endpoint is sent.
    """
    until = body.until or service.clock.now()
    since = body.since or datetime.min.replace(tzinfo=UTC)
    if until < since:
        raise Unprocessable("empty-span", "The span ends before it begins.")

    async def replay(tx: Transaction) -> Response:
        count = await replay_span(tx, service, who, endpoint_id, since, until)
        return json(Replayed(deliveries=count), 202)

    return await idempotent(request, service, who, replay)


@router.get("/webhook-deliveries", response_model=Page[DeliveryView])
async def list_webhook_deliveries(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    endpoint_id: UUID | None = None,
    event_id: UUID | None = None,
    status: Annotated[str | None, Query(pattern="^(pending|succeeded|failed)$")] = None,
) -> Response:
    """List deliveries, which are kept as long as their events: for a week."""
    filters = {"endpoint_id": endpoint_id, "event_id": event_id, "status": status}
    view = DeliveryView.of
    return await list_page(service, who, "webhook_delivery", "delivery_id", view, limit, cursor, filters)


@router.get(_DELIVERY, response_model=DeliveryDetail)
async def get_webhook_delivery(service: CurrentService, who: Reader, delivery_id: UUID) -> Response:
    """Read a delivery, with what is sent and what came of each attempt."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await one(tx, who, "webhook_delivery", "delivery_id", delivery_id, "webhook delivery")
        document = await tx.fetchval(
            "select document from feed_event where tenant_id = $1 and position = $2", who.tenant_id, row["position"]
        )
        attempts = await tx.fetch(
            "select * from webhook_attempt where tenant_id = $1 and delivery_id = $2 order by number",
            who.tenant_id,
            delivery_id,
        )
    log = [_attempt(attempt) for attempt in attempts]
    event = orjson.loads(document) if guards_of([row["event_type"]]) <= who.scopes else None
    return json(DeliveryDetail(log=log, event=event, **dict(DeliveryView.of(row))))


def _attempt(row: Any) -> AttemptView:
    return AttemptView(**{name: row[name] for name in AttemptView.model_fields})


@router.post(f"{_DELIVERY}/replay", status_code=202, response_model=DeliveryView)
async def replay_webhook_delivery(
    request: Request, service: CurrentService, who: Writer, delivery_id: UUID
) -> Response:
    """Send an event again, behind those that wait; it keeps its id. 403 without the scope to read it."""

    async def replay(tx: Transaction) -> Response:
        row = await replay_delivery(tx, service, who, delivery_id)
        view = DeliveryView.of(row)
        return json(view, 202, {"Location": f"/api/v1/webhook-deliveries/{view.id}"})

    return await idempotent(request, service, who, replay)
