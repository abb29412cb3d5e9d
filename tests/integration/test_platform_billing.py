"""The platform bills its tenants by the service that they bill their customers by."""

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from chassis.clock import FixedClock
from chassis.ids import PLATFORM_TENANT
from chassis.money import Money
from chassis.security.actors import Actor
from deploy.stack.stack import Stack
from services.billing.domain.period import Period, charge
from services.billing.domain.platform import PLATFORM_PLANS, next_period
from services.billing.use_cases.order_run import order_platform_run
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy
from tests.deployments import done, past_security, unwritable
from tests.in_process import service_in_process
from tests.integration.test_flow import accounts, billed, imported

V1 = "/api/v1"
ANY = {"If-Match": "*"}
YEARS = 4
"""So far in the past each month has the same days."""
STARTER, PREMIUM = PLATFORM_PLANS["starter"], PLATFORM_PLANS["premium"]


async def items(api: Api, path: str, **params: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.send("GET", f"{V1}/{path}", params=params)).expect(200)["items"]
    return found


async def account_of(platform: Api, isp: Tenant, status: str = "open") -> dict[str, Any]:
    """Return the account that the platform bills a tenant by, once there is one."""

    async def there() -> dict[str, Any] | None:
        found = await items(platform, "billing-accounts", customer_id=isp.id, status=status)
        return found[0] if found else None

    return await eventually(there)


async def subscribed(platform: Api, account: dict[str, Any], count: int) -> list[tuple[str, str, str | None]]:
    """Return plan, first day and end of an account's subscriptions, in the order of their making."""
    codes = {plan["id"]: plan["code"] for plan in await items(platform, "plans")}

    async def so_many() -> list[dict[str, Any]] | None:
        found = await items(platform, "subscriptions", account_id=account["id"])
        return found if len(found) == count else None

    found = sorted(await eventually(so_many), key=lambda item: item["id"])
    return [(codes[item["plan_id"]], item["started_on"], item["cancelled_on"]) for item in found]


async def invoice(platform: Api, isp: Tenant, period: date) -> list[tuple[str, int | None, int]]:
    """Bill a month twice; return description, quantity and amount of the lines of the tenant's one invoice for it."""
    month = f"{period:%Y-%m}"
    await billed(platform, month)
    await billed(platform, month)
    (found,) = await items(platform, "invoices", customer_id=isp.id, period=month)
    whole = (await platform.send("GET", f"{V1}/invoices/{found['id']}")).expect(200)
    assert whole["total"] == {
        "amount_minor": sum(line["amount"]["amount_minor"] for line in whole["lines"]),
        "currency": "USD",
    }
    return [(line["description"], line["quantity"], line["amount"]["amount_minor"]) for line in whole["lines"]]


async def moved(stack: Stack, isp: Tenant, account: dict[str, Any], years: int) -> None:
    """Move in time what a tenant is billed for."""
    dates = (
        "started_on = started_on + make_interval(years => $2), cancelled_on = cancelled_on + make_interval(years => $2)"
    )
    async with past_security(stack, "billing") as database, database.transaction():
        await database.execute(f"update subscription set {dates} where account_id = $1", UUID(account["id"]), years)
        await database.execute(
            "update active_customers set day = day + make_interval(years => $2) where tenant_id = $1",
            UUID(isp.id),
            years,
        )


async def test_a_tenant_is_billed_for_its_tier_and_its_active_customers(
    stack: Stack, public: Api, platform: Api
) -> None:
    now = datetime.now(UTC)
    left = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0) - now
    if left < timedelta(minutes=2):  # all of it is to be on one day
        await asyncio.sleep(left.total_seconds())
    today = datetime.now(UTC).date()
    this = Period(today.replace(day=1), next_period(today))
    isp = await deploy(public, platform, plan="starter", currency="EUR")
    account, _ = await asyncio.gather(
        account_of(platform, isp),
        imported(isp.api, "external_reference,name,status\nb-1,Ada,active\nb-2,Grace,active\nb-3,Joan,terminated\n"),
    )
    tenant = (await platform.send("GET", f"{V1}/tenants/{isp.id}")).expect(200)
    shown = {name: account[name] for name in ("external_reference", "name", "contact_email", "currency")}
    assert shown == {
        "external_reference": isp.slug,
        "name": tenant["name"],
        "contact_email": tenant["contact_email"],
        "currency": "USD",
    }
    assert await subscribed(platform, account, 1) == [("starter", today.isoformat(), None)]
    await accounts(isp.api, 3)
    # As if there had been ten more since last month, and four of them left in the next.
    connection = await asyncpg.connect(stack.database_url("billing", "consumer"))
    try:
        await connection.execute(f"set app.tenant_ids = '{isp.id}'")
        counted = await connection.fetchval(
            "select sum(change) from active_customers where tenant_id = $1", UUID(isp.id)
        )
        assert counted == 2
        await connection.executemany(
            "insert into active_customers (tenant_id, day, slot, change) values ($1, $2, 9, $3)",
            [(UUID(isp.id), date(2020, 1, 1), 10), (UUID(isp.id), this.end.replace(day=5), -4)],
        )
    finally:
        await connection.close()
    (customer,) = await items(isp.api, "customers", external_reference="b-1")
    (await isp.api.send("POST", f"{V1}/customers/{customer['id']}/terminate", {})).expect(200)

    async def closed() -> bool:
        return bool(await items(isp.api, "billing-accounts", customer_id=customer["id"], status="closed"))

    await eventually(closed)

    # Another tier holds from the next month; what was chosen in between is never billed. The suspended are.
    path = f"{V1}/tenants/{isp.id}"
    (await platform.send("PATCH", path, {"plan": "standard", "name": "Renamed"}, headers=ANY)).expect(200)
    assert len(await subscribed(platform, account, 2)) == 2
    assert (await account_of(platform, isp))["name"] == "Renamed"
    (await platform.send("PATCH", path, {"plan": "premium"}, headers=ANY)).expect(200)
    end = this.end.isoformat()
    assert await subscribed(platform, account, 3) == [
        ("starter", today.isoformat(), end),
        ("standard", end, end),
        ("premium", end, None),
    ]
    await done(platform, stack, isp.id, operation="suspend")

    # Once these months are over, they are billed.
    await moved(stack, isp, account, -YEARS)
    first, second, third = (
        month.replace(year=month.year - YEARS) for month in (this.start, this.end, next_period(this.end))
    )
    # Ten that were there, two more, and one of them has left by the end of the day.
    assert await invoice(platform, isp, first) == [
        ("Starter", None, charge(Money(STARTER.price_minor, "USD"), this, today, None).amount_minor),
        (
            "Starter, active customers",
            11,
            charge(Money(11 * STARTER.unit_price_minor, "USD"), this, today, None).amount_minor,
        ),
    ]
    assert await invoice(platform, isp, second) == [
        ("Premium", None, PREMIUM.price_minor),
        ("Premium, active customers", 11, 11 * PREMIUM.unit_price_minor),
    ]
    assert await invoice(platform, isp, third) == [
        ("Premium", None, PREMIUM.price_minor),
        ("Premium, active customers", 7, 7 * PREMIUM.unit_price_minor),
    ]

    # One that has left is subscribed to nothing any more, and what it was billed stays.
    await moved(stack, isp, account, YEARS)
    await done(platform, stack, isp.id, operation="deprovision", grace_seconds=0)
    await account_of(platform, isp, "closed")
    assert [end for *_, end in await subscribed(platform, account, 3)] == [today.isoformat(), end, end]
    assert len(await items(platform, "invoices", customer_id=isp.id)) == 3
    assert await items(platform, "invoices", customer_id=isp.id, period=f"{next_period(third):%Y-%m}") == []


async def test_a_month_that_is_not_over_is_billed_by_tenants_and_not_by_the_platform(
    platform: Api, tenant: Tenant
) -> None:
    today = datetime.now(UTC).date()
    for month in (today, next_period(today)):
        order = {"period": f"{month:%Y-%m}"}
        (await platform.send("POST", f"{V1}/billing-runs", order)).problem(409, "period-not-over")
        (await tenant.api.send("POST", f"{V1}/billing-runs", order)).expect(202)
    await billed(platform, f"{Period.before(Period.before(today).start).start:%Y-%m}")


async def runs(stack: Stack, period: Period) -> list[Any]:
    """Return whose the platform's runs for a month are, as they are kept."""
    async with past_security(stack, "billing") as database:
        rows = await database.fetch(
            "select actor from billing_run where tenant_id = $1 and period_start = $2", PLATFORM_TENANT, period.start
        )
    return [Actor.kept(row["actor"]).actorkind for row in rows]


async def test_the_last_month_is_billed_without_anybodys_doing(stack: Stack, platform: Api) -> None:
    last = Period.before((datetime.now(UTC) - timedelta(hours=1)).date())

    async def ordered() -> list[Any] | None:
        return await runs(stack, last) or None

    assert await eventually(ordered, seconds=120) == ["system"]


async def test_a_month_is_ordered_once_it_is_over_and_once(stack: Stack, platform: Api) -> None:
    clock = FixedClock(datetime(2012, 3, 1, 0, 59, tzinfo=UTC))
    january, february, march = (Period.parse(f"2012-0{month}") for month in (1, 2, 3))
    async with service_in_process(stack, "billing") as parts:
        service = replace(parts, clock=clock)

        assert await order_platform_run(service)
        assert (await runs(stack, january), await runs(stack, february)) == (["system"], [])
        clock.advance(timedelta(minutes=1))
        async with unwritable(stack, "billing", "billing_run"), past_security(stack, "billing") as database:
            looking = [asyncio.create_task(order_platform_run(service)) for _ in range(5)]

            async def all_wait() -> bool:
                waiting = "select count(*) from pg_stat_activity where datname = $1 and wait_event_type = 'Lock'"
                return bool(await database.fetchval(waiting, "dotmac_billing") >= len(looking))

            await eventually(all_wait)
        assert sorted(await asyncio.gather(*looking)) == [False] * 4 + [True]
        assert await runs(stack, february) == ["system"]
        # Where somebody was faster, there is nothing to do.
        await billed(platform, "2012-03")
        clock.set(datetime(2012, 4, 30, tzinfo=UTC))
        assert not await order_platform_run(service)
        assert await runs(stack, march) == ["platform"]


async def test_nothing_is_ordered_before_the_platform_has_a_workspace(stack: Stack) -> None:
    long_ago = FixedClock(datetime(2011, 3, 5, tzinfo=UTC))
    change = "update workspace set removed_at = $2 where tenant_id = $1"
    async with service_in_process(stack, "billing") as parts, past_security(stack, "billing") as database:
        await database.execute(change, PLATFORM_TENANT, datetime.now(UTC))
        try:
            assert not await order_platform_run(replace(parts, clock=long_ago))
        finally:
            await database.execute(change, PLATFORM_TENANT, None)
    assert await runs(stack, Period.parse("2011-02")) == []


async def test_prices_of_a_metered_plan_are_the_platforms_to_change(platform: Api, tenant: Tenant) -> None:
    (plan,) = await items(platform, "plans", code="premium")
    assert plan["unit_price"] == {"amount_minor": PREMIUM.unit_price_minor, "currency": "USD"}
    changed = await platform.send("PATCH", f"{V1}/plans/{plan['id']}", {"unit_price": plan["unit_price"]}, headers=ANY)
    assert changed.expect(200)["unit_price"] == plan["unit_price"]
    euros = {"unit_price": {"amount_minor": 1, "currency": "EUR"}}
    refused = await platform.send("PATCH", f"{V1}/plans/{plan['id']}", euros, headers=ANY)
    refused.problem(422, "currency-mismatch")
    (plan,) = await items(tenant.api, "plans", code="FIBER")
    assert plan["unit_price"] is None
    cents = {"unit_price": {"amount_minor": 1, "currency": "USD"}}
    (await tenant.api.send("PATCH", f"{V1}/plans/{plan['id']}", cents, headers=ANY)).problem(422, "not-metered")


async def test_a_tenant_does_not_see_what_the_platform_keeps_of_it(platform: Api, tenant: Tenant) -> None:
    account = await account_of(platform, tenant)
    assert await items(tenant.api, "billing-accounts", customer_id=tenant.id) == []
    (await tenant.api.send("GET", f"{V1}/billing-accounts/{account['id']}")).problem(404)
    (await tenant.api.send("GET", f"{V1}/plans/{(await items(platform, 'plans'))[0]['id']}")).problem(404)
