"""Billing runs, invoices and payments."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.document import problems
from chassis.http.idempotency import idempotent
from chassis.http.listing import list_page, one
from chassis.http.pagination import Cursor, Limit, Page
from chassis.http.preconditions import etag
from chassis.http.problem import Conflict
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from dotmac_contracts.money import Money as MoneyData
from services.billing.api.models import (
    InvoiceSummary,
    InvoiceView,
    Money,
    PaymentData,
    PaymentView,
    RunOrder,
    RunView,
)
from services.billing.domain.period import Period
from services.billing.use_cases.order_run import order_run
from services.billing.use_cases.take_payment import take_payment

router = APIRouter(prefix="/api/v1", tags=["Invoices and payments"])
Reader = Annotated[Principal, Depends(require("billing:read"))]
Writer = Annotated[Principal, Depends(require("billing:write"))]
Month = Annotated[str | None, Query(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$", examples=["2026-10"])]


@router.post("/billing-runs", status_code=202, response_model=RunView)
async def start_run(request: Request, service: CurrentService, who: Writer, body: RunOrder) -> Response:
    """Bill a month. A month that was billed is billed for what is new in it only.

    The platform bills its tenants for months that are over, by UTC: any other is refused as `period-not-over`. A run
    for the last month is ordered on its own once that is over, unless one was ordered before.
    """
    period = Period.parse(body.period)

    async def start(tx: Transaction) -> Response:
        view = RunView.of(await order_run(tx, service, who.tenant_id, period))
        return json(view, 202, {"Location": f"/api/v1/billing-runs/{view.id}"})

    response = await idempotent(request, service, who, start)
    service.wake("billing-runs")
    return response


@router.get("/billing-runs", response_model=Page[RunView])
async def list_runs(service: CurrentService, who: Reader, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """List billing runs."""
    return await list_page(service, who, "billing_run", "run_id", RunView.of, limit, cursor, {})


@router.get("/billing-runs/{run_id}", response_model=RunView)
async def get_run(service: CurrentService, who: Reader, run_id: UUID) -> Response:
    """Follow a billing run."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        return json(RunView.of(await one(tx, who, "billing_run", "run_id", run_id, "billing run")))


@router.get("/invoices", response_model=Page[InvoiceView])
async def list_invoices(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    account_id: UUID | None = None,
    customer_id: UUID | None = None,
    period: Month = None,
) -> Response:
    """List invoices."""
    start = Period.parse(period).start if period else None
    filters = {"account_id": account_id, "customer_id": customer_id, "period_start": start}
    return await list_page(service, who, "invoice", "invoice_id", InvoiceView.of, limit, cursor, filters)


@router.get("/invoices/summary", response_model=InvoiceSummary, responses=problems(409))
async def summarize_invoices(service: CurrentService, who: Reader, period: Month = None) -> Response:
    """Count and sum invoices."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await tx.fetchrow(
            "select count(*) as count, coalesce(sum(total_minor), 0)::bigint as total,"
            " (select currency from workspace where removed_at is null) as currency"
            " from invoice where $1::date is null or period_start = $1",
            Period.parse(period).start if period else None,
        )
    if row is None or row["currency"] is None:
        raise Conflict("not-deployed", "The tenant has no workspace: deploy it first.")
    return json(InvoiceSummary(count=row["count"], total=Money.of(row["total"], row["currency"])))


@router.get("/invoices/{invoice_id}", response_model=InvoiceView)
async def get_invoice(service: CurrentService, who: Reader, invoice_id: UUID) -> Response:
    """Read an invoice with its lines."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await one(tx, who, "invoice", "invoice_id", invoice_id, "invoice")
        lines = await tx.fetch(
            "select * from invoice_line where tenant_id = $1 and invoice_id = $2 order by line",
            who.tenant_id,
            invoice_id,
        )
    return json(InvoiceView.of(row, lines), headers={"ETag": etag(row["version"])})


@router.post("/payments", status_code=201, response_model=PaymentView)
async def add_payment(request: Request, service: CurrentService, who: Writer, body: PaymentData) -> Response:
    """Take a payment; it pays the account's oldest open invoices first."""
    amount = MoneyData(amount_minor=body.amount.amount_minor, currency=body.amount.currency)

    async def take(tx: Transaction) -> Response:
        row = await take_payment(tx, service, who.tenant_id, body.account_id, amount, body.method, body.reference)
        return json(PaymentView.of(row), 201, {"Location": f"/api/v1/payments/{row['payment_id']}"})

    return await idempotent(request, service, who, take)


@router.get("/payments", response_model=Page[PaymentView])
async def list_payments(
    service: CurrentService, who: Reader, limit: Limit = 50, cursor: Cursor = None, account_id: UUID | None = None
) -> Response:
    """List payments."""
    filters = {"account_id": account_id}
    return await list_page(service, who, "payment", "payment_id", PaymentView.of, limit, cursor, filters)


@router.get("/payments/{payment_id}", response_model=PaymentView)
async def get_payment(service: CurrentService, who: Reader, payment_id: UUID) -> Response:
    """Read a payment."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        return json(PaymentView.of(await one(tx, who, "payment", "payment_id", payment_id, "payment")))
