"""API6: what must happen once happens once, however often and however concurrently it is asked for."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg

from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.conftest import Tenant, registration, sign_in
from tests.integration.test_flow import billed

V1 = "/api/v1"
AT_ONCE = 12


def outcomes(answers: list[Any]) -> list[int]:
    return sorted(answer.status for answer in answers)


async def test_a_tenant_is_deployed_once_however_often_it_is_asked_for(platform: Api) -> None:
    tenant = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)
    orders = [platform.send("POST", f"{V1}/tenants/{tenant['id']}/deployments") for _ in range(AT_ONCE)]
    assert outcomes(await asyncio.gather(*orders)) == [202] + [409] * (AT_ONCE - 1)


async def test_a_slug_is_registered_once(platform: Api) -> None:
    data = registration()
    answers = await asyncio.gather(*(platform.send("POST", f"{V1}/tenants", data) for _ in range(AT_ONCE)))
    assert outcomes(answers) == [201] + [409] * (AT_ONCE - 1)


async def test_an_invitation_is_accepted_once(public: Api, platform: Api) -> None:
    data = registration()
    tenant = (await platform.send("POST", f"{V1}/tenants", data)).expect(201)
    (await platform.send("POST", f"{V1}/tenants/{tenant['id']}/deployments")).expect(202)

    async def invited() -> Any:
        answer = await platform.send("POST", f"{V1}/tenants/{tenant['id']}/invitations")
        return answer.body if answer.status == 201 else None

    first = await eventually(invited)
    token = (await platform.send("POST", f"{V1}/tenants/{tenant['id']}/invitations")).expect(201)["token"]
    # A newer invitation ends the older one.
    stale = {"token": first["token"], "password": "password of a stale one"}
    (await public.send("POST", f"{V1}/auth/invitations/accept", stale)).problem(400, "invalid-invitation")
    passwords = [f"password of racer {number}" for number in range(AT_ONCE)]
    answers = await asyncio.gather(
        *(
            public.send("POST", f"{V1}/auth/invitations/accept", {"token": token, "password": password})
            for password in passwords
        )
    )
    assert outcomes(answers) == [204] + [400] * (AT_ONCE - 1)
    winner = passwords[[answer.status for answer in answers].index(204)]
    await sign_in(public, first["email"], winner, data["slug"])
    for password in passwords:
        if password != winner:
            form = {"username": first["email"], "password": password, "tenant": data["slug"]}
            (await public.send("POST", f"{V1}/auth/token", form=form)).problem(401, "invalid-credentials")
            await sign_in(public, first["email"], winner, data["slug"])  # or so many wrong ones would have to wait


async def subscribed(tenant: Tenant, name: str) -> tuple[str, str]:
    """Return a new customer and its account, with a subscription from a month ago."""
    reference = f"{name}-{uuid4().hex[:8]}"
    body = {"name": name, "external_reference": reference}
    customer = (await tenant.api.send("POST", f"{V1}/customers", body)).expect(201)["id"]

    async def opened() -> Any:
        found = await tenant.api.send("GET", f"{V1}/billing-accounts", params={"customer_id": customer})
        return found.expect(200)["items"] or None

    (account,) = await eventually(opened)
    return customer, account["id"]


async def test_a_customer_is_subscribed_to_a_plan_once(tenant: Tenant) -> None:
    customer, _ = await subscribed(tenant, "Double click")
    order = {"customer_id": customer, "plan_code": "FIBER"}
    answers = await asyncio.gather(*(tenant.api.send("POST", f"{V1}/subscriptions", order) for _ in range(AT_ONCE)))
    assert outcomes(answers) == [201] + [409] * (AT_ONCE - 1)


async def test_a_payment_with_a_key_is_taken_once(tenant: Tenant) -> None:
    _, account = await subscribed(tenant, "Pays twice")
    payment = {"account_id": account, "amount": {"amount_minor": 500, "currency": "USD"}, "method": "card"}
    headers = {"Idempotency-Key": uuid4().hex}
    answers = await asyncio.gather(
        *(tenant.api.send("POST", f"{V1}/payments", payment, headers=headers) for _ in range(AT_ONCE))
    )
    assert set(outcomes(answers)) == {201}
    assert len({answer.body["id"] for answer in answers}) == 1
    taken = (await tenant.api.send("GET", f"{V1}/payments", params={"account_id": account})).expect(200)["items"]
    assert len(taken) == 1
    # The key is for that payment and no other.
    other = {**payment, "amount": {"amount_minor": 1, "currency": "USD"}}
    (await tenant.api.send("POST", f"{V1}/payments", other, headers=headers)).problem(422, "idempotency-key-reused")


async def test_a_month_is_billed_once_however_many_runs_are_started(stack: Stack, tenant: Tenant) -> None:
    customer, account = await subscribed(tenant, "Billed often")
    order = {"customer_id": customer, "plan_code": "DSL", "started_on": "2025-01-01"}
    (await tenant.api.send("POST", f"{V1}/subscriptions", order)).expect(201)
    await asyncio.gather(*(billed(tenant.api, "2025-02") for _ in range(4)))
    params = {"account_id": account, "period": "2025-02"}
    invoices = (await tenant.api.send("GET", f"{V1}/invoices", params=params)).expect(200)["items"]
    assert len(invoices) == 1
    # Payments that race each other pay it once, and leave the rest as credit.
    amount = invoices[0]["total"]
    payment = {"account_id": account, "amount": amount, "method": "card"}
    taken = await asyncio.gather(*(tenant.api.send("POST", f"{V1}/payments", payment) for _ in range(6)))
    assert sorted(answer.expect(201)["allocated"]["amount_minor"] for answer in taken) == [0] * 5 + [
        amount["amount_minor"]
    ]
    connection = await asyncpg.connect(stack.database_url("billing", "consumer"))
    try:
        await connection.execute(f"set app.tenant_ids = '{tenant.id}'")
        assert await connection.fetchval("select sum(amount_minor) from ledger_entry") == 0
    finally:
        await connection.close()


async def test_an_update_is_lost_by_nobody(tenant: Tenant) -> None:
    customer = (await tenant.api.send("POST", f"{V1}/customers", {"name": "Raced"})).expect(201)
    path = f"{V1}/customers/{customer['id']}"
    answers = await asyncio.gather(
        *(
            tenant.api.send("PATCH", path, {"city": f"City {number}"}, headers={"If-Match": '"1"'})
            for number in range(AT_ONCE)
        )
    )
    assert outcomes(answers) == [200] + [412] * (AT_ONCE - 1)
    (winner,) = (answer.body for answer in answers if answer.status == 200)
    assert (await tenant.api.send("GET", path)).expect(200) == winner
