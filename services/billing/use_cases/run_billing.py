"""Bill a period, a chunk of accounts a transaction: it can stop anywhere and goes on where it stopped."""

from datetime import timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.money import Money
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.billing import InvoiceIssued
from dotmac_contracts.money import Money as MoneyData
from services.billing.domain.period import Period, charge, invoice_number

CHUNK = 1000
_DAYS_TO_PAY = timedelta(days=14)

# Accounts that have something to bill in the period and no invoice for it yet, after the last one done.
_DUE = """
select s.account_id, a.customer_id, s.subscription_id, s.price_minor, s.currency, s.started_on, s.cancelled_on, p.name
from (
    select distinct d.account_id from subscription d
    where d.tenant_id = $1 and ($2::uuid is null or d.account_id > $2)
      and d.started_on < $4 and (d.cancelled_on is null or d.cancelled_on > $3)
      and not exists (select 1 from invoice i where i.tenant_id = $1 and i.account_id = d.account_id
                      and i.period_start = $3)
    order by d.account_id limit $5
) due
join subscription s on s.tenant_id = $1 and s.account_id = due.account_id
join billing_account a on a.tenant_id = $1 and a.account_id = due.account_id
join plan p on p.tenant_id = $1 and p.plan_id = s.plan_id
where s.started_on < $4 and (s.cancelled_on is null or s.cancelled_on > $3)
order by s.account_id, s.subscription_id
"""


async def run_billing(service: Service) -> bool:
    """Do the next chunk of the oldest run; False if there is none."""
    async with service.consumer_db.unscoped() as tx:
        job = await tx.fetchrow(
            "select tenant_id, run_id from billing_run where finished_at is null order by created_at limit 1"
        )
    if job is None:
        return False
    tenant_id, run_id = job["tenant_id"], job["run_id"]
    async with service.consumer_db.for_tenants([tenant_id]) as tx:
        # Each lock in a statement of its own, so that what follows sees what its last holder committed.
        run = await tx.fetchrow(
            "select * from billing_run where tenant_id = $1 and run_id = $2 for update", tenant_id, run_id
        )
        if run is None or run["finished_at"] is not None:
            return True
        last = await tx.fetchval("select last_invoice_number from workspace where tenant_id = $1 for update", tenant_id)
        period = Period(run["period_start"], run["period_end"])
        rows = await tx.fetch(_DUE, tenant_id, run["after_account"], period.start, period.end, CHUNK)
        if not rows:
            await tx.execute(
                "update billing_run set status = 'completed', finished_at = now() where tenant_id = $1 and run_id = $2",
                tenant_id,
                run_id,
            )
            return True
        await _issue(tx, service, tenant_id, run_id, period, last, rows)
    return True


async def _issue(
    tx: Transaction, service: Service, tenant_id: UUID, run_id: UUID, period: Period, last: int, rows: list[Any]
) -> None:
    now = service.clock.now()
    due_on = now.date() + _DAYS_TO_PAY
    invoices: list[tuple[UUID, UUID, UUID, str, int, str]] = []
    lines: list[tuple[UUID, int, UUID, str, int]] = []
    outgoing: list[Outgoing] = []
    number = last
    for account_id, group in groupby(rows, key=lambda row: row["account_id"]):
        subscriptions = list(group)
        invoice_id, currency = new_id(), subscriptions[0]["currency"]
        number += 1
        total = Money.zero(currency)
        for index, row in enumerate(subscriptions, 1):
            price = Money(row["price_minor"], row["currency"])
            amount = charge(price, period, row["started_on"], row["cancelled_on"])
            total += amount
            lines.append((invoice_id, index, row["subscription_id"], row["name"], amount.amount_minor))
        customer_id, name = subscriptions[0]["customer_id"], invoice_number(number)
        invoices.append((invoice_id, account_id, customer_id, name, total.amount_minor, currency))
        event = InvoiceIssued.model_construct(
            invoice_id=invoice_id,
            tenant_id=tenant_id,
            account_id=account_id,
            customer_id=customer_id,
            number=name,
            period_start=period.start,
            period_end=period.end,
            issued_at=now,
            due_on=due_on,
            total=MoneyData.model_construct(amount_minor=total.amount_minor, currency=currency),
        )
        outgoing.append(Outgoing(event, 1))
    columns = [list(column) for column in zip(*invoices, strict=True)]
    await tx.execute(
        "insert into invoice (tenant_id, invoice_id, account_id, customer_id, number, total_minor, currency,"
        " period_start, period_end, issued_at, due_on, version) select $1, *, $8, $9, $10, $11, 1"
        " from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::bigint[], $7::text[])",
        tenant_id,
        *columns,
        period.start,
        period.end,
        now,
        due_on,
    )
    await tx.execute(
        "insert into invoice_line (tenant_id, invoice_id, line, subscription_id, description, amount_minor)"
        " select $1, * from unnest($2::uuid[], $3::int[], $4::uuid[], $5::text[], $6::bigint[])",
        tenant_id,
        *(list(column) for column in zip(*lines, strict=True)),
    )
    # Double entry: what a customer owes is what the ISP earns.
    await tx.execute(
        "insert into ledger_entry (tenant_id, source_id, account, amount_minor, currency)"
        " select $1, i, a, case a when 'receivable' then m else -m end, c"
        " from unnest($2::uuid[], $3::bigint[], $4::text[]) as x (i, m, c),"
        " unnest(array['receivable', 'revenue']) as a",
        tenant_id,
        columns[0],
        columns[4],
        columns[5],
    )
    await publish(tx, outgoing, source=service.source, clock=service.clock)
    await tx.execute("update workspace set last_invoice_number = $2 where tenant_id = $1", tenant_id, number)
    await tx.execute(
        "update billing_run set status = 'running', after_account = $3, processed = processed + $4,"
        " invoices = invoices + $4, total_minor = total_minor + $5 where tenant_id = $1 and run_id = $2",
        tenant_id,
        run_id,
        rows[-1]["account_id"],
        len(invoices),
        sum(columns[4]),
    )
