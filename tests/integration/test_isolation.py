"""A tenant reads or changes nothing of another's: at every operation, and at the database alone."""

import re

import asyncpg
import pytest

from deploy.stack.stack import SERVICES, Stack
from tests.api import eventually
from tests.conftest import Tenant

V1 = "/api/v1"


async def test_a_token_reaches_nothing_of_another_tenant(stack: Stack, tenant: Tenant, other: Tenant) -> None:
    mine, theirs = other.api, tenant.api
    customer = (await theirs.send("POST", f"{V1}/customers", {"name": "Theirs", "email": "t@t.example"})).expect(201)

    async def opened() -> str | None:
        params = {"customer_id": customer["id"]}
        items = (await theirs.send("GET", f"{V1}/billing-accounts", params=params)).expect(200)["items"]
        return items[0]["id"] if items else None

    account = await eventually(opened)
    order = {"customer_id": customer["id"], "plan_code": "FIBER"}
    subscription = (await theirs.send("POST", f"{V1}/subscriptions", order)).expect(201)
    plan = subscription["plan_id"]
    ids = {"customer": customer["id"], "account": account, "subscription": subscription["id"], "plan": plan}
    ids |= {"deployment": tenant.deployment["id"], "tenant": tenant.id}
    tried = 0
    for method, template in sorted(theirs.operations):
        for name in re.findall(r"{(\w+)_id}", template):
            if name not in ids:
                continue
            path = re.sub(r"{\w+}", ids[name], template)
            body = {} if method in ("PATCH", "POST") else None
            answer = await mine.send(method, path, body, headers={"If-Match": "*"})
            # A tenant has no scope for tenants at all; of all else it can't tell whether the thing exists.
            answer.problem(403 if name == "tenant" else 404)
            tried += 1
    assert tried >= 12
    bodies = [
        ("/subscriptions", {"customer_id": customer["id"], "plan_code": "FIBER"}, 422),
        ("/payments", {"account_id": account, "amount": {"amount_minor": 1, "currency": "USD"}, "method": "x"}, 404),
    ]
    for path, body, status in bodies:
        (await mine.send("POST", V1 + path, body)).problem(status)
    bulk = (await mine.send("POST", f"{V1}/subscriptions/bulk", {"items": [bodies[0][1]]})).expect(200)
    assert (bulk["created"], len(bulk["rejected"])) == (0, 1)
    for path, params in (
        ("/customers", {"email": "t@t.example"}),
        ("/billing-accounts", {"customer_id": customer["id"]}),
        ("/subscriptions", {"account_id": account}),
        ("/deployments", {"tenant_id": tenant.id}),
    ):
        assert (await mine.send("GET", V1 + path, params=params)).expect(200)["items"] == []
    assert (await theirs.send("GET", f"{V1}/customers/{customer['id']}")).expect(200) == customer
    assert (await theirs.send("GET", f"{V1}/subscriptions/{subscription['id']}")).expect(200) == subscription


@pytest.mark.parametrize("service", SERVICES)
async def test_the_database_itself_keeps_tenants_apart(
    stack: Stack, tenant: Tenant, other: Tenant, service: str
) -> None:
    for role, setting in (("api", "app.tenant_id"), ("consumer", "app.tenant_ids")):
        connection = await asyncpg.connect(stack.database_url(service, role))
        try:
            tables = await connection.fetch(
                "select c.relname, c.relforcerowsecurity as forced from pg_class c join pg_attribute a"
                " on a.attrelid = c.oid and a.attname = 'tenant_id'"
                " where c.relkind in ('r', 'p') and c.relname not like 'journal%' and c.relname <> 'outbox'"
                " and c.relnamespace = 'public'::regnamespace"
            )
            assert tables
            for table in tables:
                name = table["relname"]
                assert table["forced"], name
                scans = name in ("customer_import", "billing_run", "deployment") and role == "consumer"
                await connection.execute(f"reset {setting}")
                if not scans:
                    assert await connection.fetchval(f"select count(*) from {name}") == 0, name
                await connection.execute(f"set {setting} = '{other.id}'")
                query = f"select count(*) from {name} where tenant_id = '{tenant.id}'"
                if not scans:
                    assert await connection.fetchval(query) == 0, name
                assert await connection.execute(f"delete from {name} where tenant_id = '{tenant.id}'") == "DELETE 0"
        finally:
            await connection.close()


async def test_a_service_can_not_enter_anothers_database(stack: Stack) -> None:
    url = stack.database_url("customer", "api").replace("dotmac_customer", "dotmac_billing")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(url)
