"""The workspace, accounts, plans and subscriptions."""

from typing import Annotated
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.idempotency import idempotent
from chassis.http.listing import list_page, one
from chassis.http.pagination import Cursor, Limit, Page
from chassis.http.preconditions import etag, require_match
from chassis.http.problem import Conflict, NotFound, Unprocessable
from chassis.http.responses import json
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from dotmac_contracts.billing import PlanChanged, PlanPublished, SubscriptionCancelled
from services.billing.api.models import (
    AccountView,
    BulkOrder,
    BulkResult,
    Count,
    OrderData,
    PlanChange,
    PlanData,
    PlanView,
    RejectedOrder,
    SubscriptionView,
    WorkspaceView,
)
from services.billing.domain.terms import terms
from services.billing.tables import prices
from services.billing.use_cases.keep_settings import invoicing
from services.billing.use_cases.subscribe import Order, subscribe

router = APIRouter(prefix="/api/v1", tags=["Plans and subscriptions"])
Reader = Annotated[Principal, Depends(require("billing:read"))]
Writer = Annotated[Principal, Depends(require("billing:write"))]


@router.get("/billing-workspace", response_model=WorkspaceView)
async def get_billing_workspace(service: CurrentService, who: Reader) -> Response:
    """Read the tenant's workspace."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await tx.fetchrow(
            "select tenant_id, currency, time_zone, invoice_prefix, created_at from workspace where removed_at is null"
        )
        if row is None:
            raise NotFound("workspace of", who.tenant_id)
        days = terms((await invoicing(tx, who.tenant_id)).payment_terms_days)
    return json(WorkspaceView(**dict(row), payment_terms_days=days))


@router.get("/billing-accounts", response_model=Page[AccountView])
async def list_accounts(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    customer_id: UUID | None = None,
    external_reference: Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")] = None,
    status: Annotated[str | None, Query(pattern="^(open|closed)$")] = None,
) -> Response:
    """List billing accounts."""
    filters = {"customer_id": customer_id, "external_reference": external_reference, "status": status}
    return await list_page(service, who, "billing_account", "account_id", AccountView.of, limit, cursor, filters)


@router.get("/billing-accounts/summary", response_model=Count)
async def summarize_accounts(service: CurrentService, who: Reader) -> Response:
    """Count billing accounts."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        return json(Count(count=await tx.fetchval("select count(*) from billing_account")))


@router.get("/billing-accounts/{account_id}", response_model=AccountView)
async def get_account(service: CurrentService, who: Reader, account_id: UUID) -> Response:
    """Read a billing account."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await one(tx, who, "billing_account", "account_id", account_id, "billing account")
    return json(AccountView.of(row), headers={"ETag": etag(row["version"])})


@router.post("/plans", status_code=201, response_model=PlanView)
async def publish_plan(request: Request, service: CurrentService, who: Writer, body: PlanData) -> Response:
    """Publish a plan."""

    async def create(tx: Transaction) -> Response:
        currency = await tx.fetchval("select currency from workspace where removed_at is null")
        if currency != body.price.currency:
            raise Unprocessable("currency-mismatch", f"Plans are priced in {currency}.")
        try:
            row = await tx.fetchrow(
                "insert into plan (tenant_id, plan_id, code, name, price_minor, currency, version)"
                " values ($1, $2, $3, $4, $5, $6, 1) returning *",
                who.tenant_id,
                new_id(),
                body.code,
                body.name,
                body.price.amount_minor,
                currency,
            )
        except asyncpg.UniqueViolationError:
            raise Conflict("code-taken", f"There is a plan {body.code!r} already.") from None
        view = PlanView.of(row)
        event = PlanPublished(plan_id=view.id, tenant_id=who.tenant_id, code=view.code, name=view.name, **prices(row))
        await publish(tx, [Outgoing(event, 1)], source=service.source, clock=service.clock)
        return json(view, 201, {"Location": f"/api/v1/plans/{view.id}", "ETag": etag(1)})

    return await idempotent(request, service, who, create)


@router.get("/plans", response_model=Page[PlanView])
async def list_plans(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    code: Annotated[str | None, Query(max_length=40, pattern=r"^[^\x00]*$")] = None,
) -> Response:
    """List plans."""
    return await list_page(service, who, "plan", "plan_id", PlanView.of, limit, cursor, {"code": code})


@router.get("/plans/{plan_id}", response_model=PlanView)
async def get_plan(service: CurrentService, who: Reader, plan_id: UUID) -> Response:
    """Read a plan."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await one(tx, who, "plan", "plan_id", plan_id, "plan")
    return json(PlanView.of(row), headers={"ETag": etag(row["version"])})


@router.patch("/plans/{plan_id}", response_model=PlanView)
async def change_plan(
    request: Request, service: CurrentService, who: Writer, plan_id: UUID, body: PlanChange
) -> Response:
    """Change a plan's name or price, for subscriptions to come; send its ETag as If-Match."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await tx.fetchrow(
            "select * from plan where tenant_id = $1 and plan_id = $2 for update", who.tenant_id, plan_id
        )
        if row is None:
            raise NotFound("plan", plan_id)
        require_match(request, row["version"])
        if any(price and price.currency != row["currency"] for price in (body.price, body.unit_price)):
            raise Unprocessable("currency-mismatch", f"The plan is priced in {row['currency']}.")
        if body.unit_price and row["unit_price_minor"] is None:
            raise Unprocessable("not-metered", "The plan has one price, for nothing is metered.")
        row = await tx.fetchrow(
            "update plan set name = coalesce($3, name), price_minor = coalesce($4, price_minor),"
            " unit_price_minor = coalesce($5, unit_price_minor),"
            " version = version + 1, updated_at = now() where tenant_id = $1 and plan_id = $2 returning *",
            who.tenant_id,
            plan_id,
            body.name,
            body.price.amount_minor if body.price else None,
            body.unit_price.amount_minor if body.unit_price else None,
        )
        view = PlanView.of(row)
        event = PlanChanged(plan_id=plan_id, tenant_id=who.tenant_id, code=view.code, name=view.name, **prices(row))
        await publish(tx, [Outgoing(event, view.version)], source=service.source, clock=service.clock)
    return json(view, headers={"ETag": etag(view.version)})


def _order(data: OrderData) -> Order:
    return Order(
        data.customer_id,
        data.customer_external_reference,
        data.plan_code,
        data.price.amount_minor if data.price else None,
        data.price.currency if data.price else None,
        data.started_on,
    )


@router.post("/subscriptions", status_code=201, response_model=SubscriptionView)
async def add_subscription(request: Request, service: CurrentService, who: Writer, body: OrderData) -> Response:
    """Subscribe a customer to a plan."""

    async def create(tx: Transaction) -> Response:
        result = await subscribe(tx, service, who.tenant_id, [_order(body)])
        if result.rejected:
            raise Unprocessable("subscription-refused", f"It can't be subscribed: {result.rejected[0][1]}.")
        if not result.created:
            raise Conflict("already-subscribed", "The customer has this plan already.")
        assert result.ids[0] is not None
        row = await one(tx, who, "subscription", "subscription_id", result.ids[0], "subscription")
        headers = {"Location": f"/api/v1/subscriptions/{result.ids[0]}", "ETag": etag(row["version"])}
        return json(SubscriptionView.of(row), 201, headers)

    return await idempotent(request, service, who, create)


@router.post("/subscriptions/bulk", response_model=BulkResult)
async def add_subscriptions(request: Request, service: CurrentService, who: Writer, body: BulkOrder) -> Response:
    """Subscribe many customers at once; what is there already stays as it is."""

    async def create(tx: Transaction) -> Response:
        result = await subscribe(tx, service, who.tenant_id, [_order(item) for item in body.items])
        rejected = [RejectedOrder(index=index, reason=reason) for index, reason in result.rejected]
        return json(BulkResult(created=result.created, unchanged=result.unchanged, rejected=rejected))

    return await idempotent(request, service, who, create)


@router.get("/subscriptions", response_model=Page[SubscriptionView])
async def list_subscriptions(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    account_id: UUID | None = None,
    plan_id: UUID | None = None,
) -> Response:
    """List subscriptions."""
    filters = {"account_id": account_id, "plan_id": plan_id}
    view = SubscriptionView.of
    return await list_page(service, who, "subscription", "subscription_id", view, limit, cursor, filters)


@router.get("/subscriptions/summary", response_model=Count)
async def summarize_subscriptions(service: CurrentService, who: Reader) -> Response:
    """Count active subscriptions."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        count = await tx.fetchval("select count(*) from subscription where cancelled_on is null")
    return json(Count(count=count))


@router.get("/subscriptions/{subscription_id}", response_model=SubscriptionView)
async def get_subscription(service: CurrentService, who: Reader, subscription_id: UUID) -> Response:
    """Read a subscription."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await one(tx, who, "subscription", "subscription_id", subscription_id, "subscription")
    return json(SubscriptionView.of(row), headers={"ETag": etag(row["version"])})


@router.post("/subscriptions/{subscription_id}/cancel", response_model=SubscriptionView)
async def cancel_subscription(
    request: Request, service: CurrentService, who: Writer, subscription_id: UUID
) -> Response:
    """End a subscription today."""

    async def cancel(tx: Transaction) -> Response:
        await one(tx, who, "subscription", "subscription_id", subscription_id, "subscription")
        row = await tx.fetchrow(
            "update subscription set cancelled_on = greatest($3, started_on), version = version + 1,"
            " updated_at = now() where tenant_id = $1 and subscription_id = $2 and cancelled_on is null returning *",
            who.tenant_id,
            subscription_id,
            service.clock.now().date(),
        )
        if row is None:
            raise Conflict("wrong-state", "The subscription is cancelled already.")
        event = SubscriptionCancelled(
            subscription_id=subscription_id,
            tenant_id=who.tenant_id,
            account_id=row["account_id"],
            cancelled_on=row["cancelled_on"],
        )
        await publish(tx, [Outgoing(event, row["version"])], source=service.source, clock=service.clock)
        return json(SubscriptionView.of(row), headers={"ETag": etag(row["version"])})

    return await idempotent(request, service, who, cancel)
