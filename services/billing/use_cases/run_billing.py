"""Bill a period, a chunk of accounts a transaction: it can stop anywhere and goes on where it stopped."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import reduce
from itertools import groupby
from operator import add
from typing import Any
from uuid import UUID

from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, Prepared, prepare, publish_prepared
from chassis.money import Money
from chassis.moving import unheld
from chassis.persistence.database import Transaction
from chassis.security.actors import Actor, acting
from chassis.service import Service
from chassis.telemetry import traces
from dotmac_contracts.billing import InvoiceIssued
from dotmac_contracts.money import Money as MoneyData
from services.billing import metrics
from services.billing.domain.period import Period, charge, invoice_number
from services.billing.domain.terms import due_on
from services.billing.use_cases.keep_settings import invoicing

CHUNK = 2000
"""Subscriptions that a step bills, and what more the last of their accounts has."""
_NONE = UUID(int=0)

# Subscriptions to bill in the period, with all of an account's or none (`with ties`), of accounts that come after the
# last one done and have no invoice for it yet. Tables that were just filled have no statistics, so a wrong index must
# not cost a scan for each account: what is billed is read once (`not in` is hashed), and `limit` keeps the look-ups of
# accounts and plans from being joined.
_DUE = """
select due.account_id, a.customer_id,
       due.subscription_id, due.price_minor, due.unit_price_minor, due.currency, due.started_on, due.cancelled_on,
       p.name
from (
    select * from subscription s
    where s.tenant_id = $1 and s.account_id > $2
    and s.started_on < $4 and (s.cancelled_on is null or s.cancelled_on > $3) and s.account_id not in (
        select i.account_id from invoice i where i.tenant_id = $1 and i.period_start = $3 and i.account_id > $2)
    order by s.account_id fetch first $5 rows with ties
) due
cross join lateral (
    select customer_id from billing_account a where a.tenant_id = $1 and a.account_id = due.account_id limit 1) a
cross join lateral (select name from plan p where p.tenant_id = $1 and p.plan_id = due.plan_id limit 1) p
order by due.account_id, due.subscription_id
"""

# Invoices, their lines, and double entry: what a customer owes is what the ISP earns.
_SAVE = """
with issued as (
    insert into invoice (tenant_id, invoice_id, account_id, customer_id, number, total_minor, currency,
                         period_start, period_end, issued_at, due_on, version)
    select $1, *, $2, $3, $4, $5, 1
    from unnest($6::uuid[], $7::uuid[], $8::uuid[], $9::text[], $10::bigint[], $11::text[])
    returning invoice_id, total_minor, currency
), itemised as (
    insert into invoice_line (tenant_id, invoice_id, line, subscription_id, description, amount_minor, quantity)
    select $1, * from unnest($12::uuid[], $13::int[], $14::uuid[], $15::text[], $16::bigint[], $17::bigint[])
)
insert into ledger_entry (tenant_id, source_id, account, amount_minor, currency)
select $1, invoice_id, account, sign * total_minor, currency
from issued, (values ('receivable', 1), ('revenue', -1)) as side (account, sign)
"""

# What came before the period is how many there are on its first day.
_ACTIVE_CUSTOMERS = """
select tenant_id, max(active)::bigint as most from (
    select tenant_id, sum(sum(change)) over (partition by tenant_id order by greatest(day, $2)) as active
    from active_customers where tenant_id = any($1::uuid[]) and day < $3 group by tenant_id, greatest(day, $2)
) as daily group by tenant_id
"""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk of a run's invoices: decided, encoded, and not saved yet."""

    run: Any
    """The row of the run."""
    after_number: int
    """The tenant's last invoice number before them. It fits no more once somebody else has issued invoices."""
    last_account: UUID
    issued_at: datetime
    due_on: date
    invoices: Sequence[tuple[UUID, UUID, UUID, str, int, str]]
    """Id, account, customer, number, total in minor units, currency."""
    lines: Sequence[tuple[UUID, int, UUID, str, int, int | None]]
    """Invoice, line, subscription, description, amount in minor units, quantity if it was metered."""
    events: Prepared


class BillingRuns:
    """Does the billing runs, a chunk a step; while the database saves one, the next is decided."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._ahead: _Chunk | None = None

    async def step(self) -> bool:
        """Do the next chunk of the oldest run; False if there is none."""
        ahead, self._ahead = self._ahead, None  # whatever fails, nothing is billed from what was read before it
        job = ahead.run if ahead else await self._oldest()
        if job is None:
            return False
        attributes = {traces.TENANT: str(job["tenant_id"]), "dotmac.billing_run.id": str(job["run_id"])}
        with acting(Actor.kept(job["actor"])), traces.span("bill a chunk", attributes, parent=job["traceparent"]):
            self._ahead = await _next_chunk(self._service, job["tenant_id"], job["run_id"], ahead)
        return True

    async def _oldest(self) -> Any:
        async with self._service.consumer_db.unscoped() as tx:
            return await tx.fetchrow(
                "select tenant_id, run_id, traceparent, actor from billing_run where finished_at is null"
                f" and {unheld('billing_run')} order by created_at limit 1"
            )


async def _next_chunk(service: Service, tenant_id: UUID, run_id: UUID, ahead: _Chunk | None) -> _Chunk | None:
    """Bill a chunk, and return the one after it; None if there is nothing more to do."""
    async with asyncio.TaskGroup() as together, service.consumer_db.for_tenants([tenant_id]) as tx:
        deciding = together.create_task(_decided_ahead(service, ahead)) if ahead else None
        # Each lock in a statement of its own, so that what follows sees what its last holder committed.
        run = await tx.fetchrow(
            f"select * from billing_run where tenant_id = $1 and run_id = $2 and {unheld('billing_run')} for update",
            tenant_id,
            run_id,
        )
        last = await tx.fetchval(
            # Whoever opens accounts meanwhile holds the key alone.
            "select last_invoice_number from workspace where tenant_id = $1 for no key update",
            tenant_id,
        )
        stands = run is not None and run["finished_at"] is None and (ahead is None or ahead.after_number == last)
        if deciding and not stands:
            deciding.cancel()
        if run is None or run["finished_at"] is not None:
            return None
        chunk = ahead if ahead and stands else await _decided(tx, service, run, last, run["after_account"] or _NONE)
        if chunk is None:
            await tx.execute(
                "update billing_run set status = 'completed', finished_at = now() where tenant_id = $1 and run_id = $2",
                tenant_id,
                run_id,
            )
            return None
        if deciding is None or chunk is not ahead:
            deciding = together.create_task(_decided_ahead(service, chunk))
        await _save(tx, chunk)
    return deciding.result()


async def _decided_ahead(service: Service, before: _Chunk) -> _Chunk | None:
    last = before.after_number + len(before.invoices)
    async with service.consumer_db.for_tenants([before.run["tenant_id"]]) as tx:
        return await _decided(tx, service, before.run, last, before.last_account)


async def _decided(
    tx: Transaction, service: Service, run: Any, after_number: int, after_account: UUID
) -> _Chunk | None:
    """Read what a run has to bill after an account, and decide its invoices, numbered on; None if that is nothing."""
    tenant_id, period = run["tenant_id"], Period(run["period_start"], run["period_end"])
    rows = await tx.fetch(_DUE, tenant_id, after_account, period.start, period.end, CHUNK)
    if not rows:
        return None
    now = service.clock.now()
    how = await invoicing(tx, tenant_id)
    due = due_on(now.date(), how.payment_terms_days)
    invoices: list[tuple[UUID, UUID, UUID, str, int, str]] = []
    lines: list[tuple[UUID, int, UUID, str, int, int | None]] = []
    active = await _active_customers(tx, rows, period)
    for number, (account_id, group) in enumerate(groupby(rows, key=lambda row: row["account_id"]), after_number + 1):
        subscriptions = list(group)
        invoice_id, currency = new_id(), subscriptions[0]["currency"]
        amounts: list[Money] = []
        for row in subscriptions:
            items: list[tuple[str, int, int | None]] = [(row["name"], row["price_minor"], None)]
            if row["unit_price_minor"] is not None:
                count = active.get(row["customer_id"], 0)
                items.append((f"{row['name']}, active customers", count * row["unit_price_minor"], count))
            for description, price_minor, quantity in items:
                price = Money(price_minor, row["currency"])
                amount = charge(price, period, row["started_on"], row["cancelled_on"])
                amounts.append(amount)
                facts = (row["subscription_id"], description, amount.amount_minor, quantity)
                lines.append((invoice_id, len(amounts), *facts))
        total = reduce(add, amounts)  # which refuses to mix currencies
        customer_id = subscriptions[0]["customer_id"]
        written = invoice_number(number, how.invoice_prefix)
        invoices.append((invoice_id, account_id, customer_id, written, total.amount_minor, currency))
    await asyncio.sleep(0)  # whoever shares the process has its turn
    issued = [
        InvoiceIssued(
            invoice_id=invoice_id,
            tenant_id=tenant_id,
            account_id=account_id,
            customer_id=customer_id,
            number=number,
            period_start=period.start,
            period_end=period.end,
            issued_at=now,
            due_on=due,
            total=MoneyData(amount_minor=total_minor, currency=currency),
        )
        for invoice_id, account_id, customer_id, number, total_minor, currency in invoices
    ]
    events = await prepare([Outgoing(event, 1) for event in issued], source=service.source, clock=service.clock)
    last_account = rows[-1]["account_id"]
    return _Chunk(run, after_number, last_account, now, due, invoices, lines, events)


async def _active_customers(tx: Transaction, rows: Sequence[Any], period: Period) -> dict[UUID, int]:
    """Return how many active customers those have who pay for them: the most at the end of a day of the period."""
    metered = [row["customer_id"] for row in rows if row["unit_price_minor"] is not None]
    if not metered:
        return {}
    counted = await tx.fetch(_ACTIVE_CUSTOMERS, metered, period.start, period.end)
    return {row["tenant_id"]: row["most"] for row in counted}


async def _save(tx: Transaction, chunk: _Chunk) -> None:
    """Save a chunk's invoices and their events, with the run and the tenant's counter locked."""
    run, count = chunk.run, len(chunk.invoices)
    tenant_id = run["tenant_id"]
    saved = zip(*chunk.invoices, strict=True), zip(*chunk.lines, strict=True)
    columns = [list(column) for table in saved for column in table]
    period = run["period_start"], run["period_end"]
    await tx.execute(_SAVE, tenant_id, *period, chunk.issued_at, chunk.due_on, *columns)
    await publish_prepared(tx, chunk.events)
    for currency in {row[5] for row in chunk.invoices}:
        amounts = [row[4] for row in chunk.invoices if row[5] == currency]
        metrics.issued(tx, len(amounts), sum(amounts), currency)
    await tx.execute(
        "with numbered as (update workspace set last_invoice_number = last_invoice_number + $4 where tenant_id = $1)"
        " update billing_run set status = 'running', after_account = $3, processed = processed + $4,"
        " invoices = invoices + $4, total_minor = total_minor + $5 where tenant_id = $1 and run_id = $2",
        tenant_id,
        run["run_id"],
        chunk.last_account,
        count,
        sum(row[4] for row in chunk.invoices),
    )
