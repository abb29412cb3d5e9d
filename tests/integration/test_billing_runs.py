"""Who bills in chunks decides the next one ahead, and must not issue what another has issued meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from uuid import UUID

import pytest

from chassis.ids import new_id
from chassis.service import Service
from deploy.stack.stack import Stack
from services.billing.use_cases import run_billing
from services.billing.use_cases.run_billing import BillingRuns
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy
from tests.in_process import service_in_process

V1 = "/api/v1"
CUSTOMERS = 7


@pytest.fixture
async def subscribed(public: Api, platform: Api) -> Tenant:
    """A tenant of a few subscribers."""
    tenant = await deploy(public, platform)
    for number in range(CUSTOMERS):
        data = {"name": f"Subscriber {number}", "external_reference": f"s-{number}"}
        (await tenant.api.send("POST", f"{V1}/customers", data)).expect(201)

    async def opened() -> bool:
        return bool((await tenant.api.send("GET", f"{V1}/billing-accounts/summary")).expect(200)["count"] == CUSTOMERS)

    await eventually(opened)
    orders = [
        {"customer_external_reference": f"s-{number}", "plan_code": "FIBER", "started_on": "2026-01-01"}
        for number in range(CUSTOMERS)
    ]
    made = (await tenant.api.send("POST", f"{V1}/subscriptions/bulk", {"items": orders})).expect(200)
    assert made["created"] == CUSTOMERS
    return tenant


@pytest.fixture
async def service(stack: Stack, subscribed: Tenant) -> AsyncIterator[Service]:
    """The billing service's parts in this process, while its own process is away."""
    await stack.children["billing"].stop()
    try:
        async with service_in_process(stack, "billing") as parts:
            yield parts
    finally:
        await stack.start_service("billing")


async def _ordered(service: Service, tenant_id: UUID) -> UUID:
    run_id = new_id()
    async with service.consumer_db.for_tenants([tenant_id]) as tx:
        await tx.execute(
            "insert into billing_run (tenant_id, run_id, period_start, period_end, status, currency)"
            " values ($1, $2, $3, $4, 'queued', 'USD')",
            tenant_id,
            run_id,
            date(2026, 2, 1),
            date(2026, 3, 1),
        )
    return run_id


async def test_a_chunk_decided_ahead_is_thrown_away_once_another_has_issued_invoices(
    subscribed: Tenant, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_billing, "CHUNK", 2)
    tenant_id = UUID(subscribed.id)
    run_id = await _ordered(service, tenant_id)
    one, two = BillingRuns(service), BillingRuns(service)
    assert await one.step()  # invoices 1 and 2, and it knows what 3 and 4 are to be
    assert await two.step()  # which are issued here
    assert await one.step()
    assert await two.step()
    while await one.step() | await two.step():
        pass
    async with service.consumer_db.for_tenants([tenant_id]) as tx:
        invoices = await tx.fetch(
            "select number, account_id from invoice where tenant_id = $1 order by number", tenant_id
        )
        run = await tx.fetchrow("select * from billing_run where tenant_id = $1 and run_id = $2", tenant_id, run_id)
        entries = await tx.fetchval("select count(*) from ledger_entry where tenant_id = $1", tenant_id)
        counter = await tx.fetchval("select last_invoice_number from workspace where tenant_id = $1", tenant_id)
    assert [row["number"] for row in invoices] == [f"INV-{number:06d}" for number in range(1, CUSTOMERS + 1)]
    assert len({row["account_id"] for row in invoices}) == CUSTOMERS
    assert run is not None
    assert (run["status"], run["invoices"], run["processed"]) == ("completed", CUSTOMERS, CUSTOMERS)
    assert (entries, counter) == (2 * CUSTOMERS, CUSTOMERS)


async def test_an_account_is_billed_for_all_of_its_subscriptions_at_once(
    subscribed: Tenant, stack: Stack, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that is more than a chunk."""
    tenant_id = UUID(subscribed.id)
    await stack.start_service("billing")
    orders = [
        {"customer_external_reference": f"s-{number}", "plan_code": plan, "started_on": "2026-01-01"}
        for number in (2, 3)
        for plan in ("DSL", "PHONE")
    ]
    made = (await subscribed.api.send("POST", f"{V1}/subscriptions/bulk", {"items": orders})).expect(200)
    assert made["created"] == len(orders)
    await stack.children["billing"].stop()
    monkeypatch.setattr(run_billing, "CHUNK", 2)
    await _ordered(service, tenant_id)
    runs = BillingRuns(service)
    while await runs.step():
        pass
    async with service.consumer_db.for_tenants([tenant_id]) as tx:
        invoices = await tx.fetch(
            "select a.external_reference, i.total_minor, l.lines, l.sum from invoice i"
            " join billing_account a using (tenant_id, account_id)"
            " join (select tenant_id, invoice_id, array_agg(line order by line) as lines, sum(amount_minor)"
            " from invoice_line group by 1, 2) l using (tenant_id, invoice_id) where i.tenant_id = $1",
            tenant_id,
        )
    assert len(invoices) == CUSTOMERS
    assert all(row["total_minor"] == row["sum"] for row in invoices)
    lines = {row["external_reference"]: row["lines"] for row in invoices}
    assert lines == {f"s-{number}": [1, 2, 3] if number in (2, 3) else [1] for number in range(CUSTOMERS)}


async def test_two_that_bill_one_run_at_once_issue_each_invoice_once(
    subscribed: Tenant, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_billing, "CHUNK", 1)
    tenant_id = UUID(subscribed.id)
    await _ordered(service, tenant_id)

    async def work(runs: BillingRuns) -> None:
        while await runs.step():
            pass

    await asyncio.gather(work(BillingRuns(service)), work(BillingRuns(service)))
    async with service.consumer_db.for_tenants([tenant_id]) as tx:
        numbers = await tx.fetch("select number from invoice where tenant_id = $1 order by number", tenant_id)
    assert [row["number"] for row in numbers] == [f"INV-{number:06d}" for number in range(1, CUSTOMERS + 1)]
