"""Take a payment and allocate it to the oldest open invoices."""

from typing import Any
from uuid import UUID

from chassis.http.problem import NotFound, Unprocessable
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.billing import InvoicePaid, InvoicePartiallyPaid, PaymentReceived
from dotmac_contracts.money import Money
from services.billing import metrics
from services.billing.domain.allocation import allocate_oldest_first


async def take_payment(
    tx: Transaction,
    service: Service,
    tenant_id: UUID,
    account_id: UUID,
    amount: Money,
    method: str,
    reference: str | None,
) -> Any:
    """Return the payment's row. What no open invoice takes stays as the account's credit."""
    account = await tx.fetchrow(
        "select currency from billing_account where tenant_id = $1 and account_id = $2 for update",
        tenant_id,
        account_id,
    )
    if account is None:
        raise NotFound("billing account", account_id)
    if account["currency"] != amount.currency:
        raise Unprocessable("currency-mismatch", f"The account is billed in {account['currency']}.")
    open_invoices = await tx.fetch(
        "select invoice_id, number, total_minor, paid_minor, version from invoice"
        " where tenant_id = $1 and account_id = $2 and paid_minor < total_minor order by period_start for update",
        tenant_id,
        account_id,
    )
    owed = [row["total_minor"] - row["paid_minor"] for row in open_invoices]
    parts = allocate_oldest_first(amount.amount_minor, owed)
    allocated, payment_id, now = sum(parts), new_id(), service.clock.now()
    paid = [(row, part) for row, part in zip(open_invoices, parts, strict=True) if part]
    payment = await tx.fetchrow(
        "insert into payment (tenant_id, payment_id, account_id, amount_minor, allocated_minor, currency, method,"
        " reference, received_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning *",
        tenant_id,
        payment_id,
        account_id,
        amount.amount_minor,
        allocated,
        amount.currency,
        method,
        reference,
        now,
    )
    invoice_ids, amounts = [row["invoice_id"] for row, _ in paid], [part for _, part in paid]
    await tx.execute(
        "insert into payment_allocation (tenant_id, payment_id, invoice_id, amount_minor)"
        " select $1, $2, * from unnest($3::uuid[], $4::bigint[])",
        tenant_id,
        payment_id,
        invoice_ids,
        amounts,
    )
    await tx.execute(
        "update invoice i set paid_minor = i.paid_minor + x.part, version = i.version + 1"
        " from unnest($2::uuid[], $3::bigint[]) as x (invoice_id, part)"
        " where i.tenant_id = $1 and i.invoice_id = x.invoice_id",
        tenant_id,
        invoice_ids,
        amounts,
    )
    await tx.execute(
        "insert into ledger_entry (tenant_id, source_id, account, amount_minor, currency)"
        " values ($1, $2, 'cash', $3, $4), ($1, $2, 'receivable', -$3, $4)",
        tenant_id,
        payment_id,
        amount.amount_minor,
        amount.currency,
    )
    currency = amount.currency
    metrics.received(tx, amount.amount_minor, currency)
    outgoing = [
        Outgoing(
            PaymentReceived(
                payment_id=payment_id,
                tenant_id=tenant_id,
                account_id=account_id,
                amount=amount,
                method=method,
                received_at=now,
                allocated=Money(amount_minor=allocated, currency=currency),
                unallocated=Money(amount_minor=amount.amount_minor - allocated, currency=currency),
            ),
            1,
        )
    ]
    for row, part in paid:
        ids = {"invoice_id": row["invoice_id"], "tenant_id": tenant_id, "number": row["number"]}
        total = Money(amount_minor=row["total_minor"], currency=currency)
        by_now = Money(amount_minor=row["paid_minor"] + part, currency=currency)
        event = (
            InvoicePaid(**ids, paid_at=now, total=total)
            if by_now == total
            else InvoicePartiallyPaid(**ids, payment_id=payment_id, paid=by_now, total=total)
        )
        outgoing.append(Outgoing(event, row["version"] + 1))
    await publish(tx, outgoing, source=service.source, clock=service.clock)
    return payment
