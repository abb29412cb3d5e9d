"""API1: a tenant reads or changes nothing of another's: at every operation, at a service itself, at the database."""

import re
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from deploy.roles import SERVICES
from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.conftest import PASSWORD, Tenant, sign_in
from tests.integration.test_flow import imported

V1 = "/api/v1"
SCANNED = (
    *("customer_import", "billing_run", "active_customers", "deployment", "drift", "instance"),
    *("webhook_queue", "webhook_delivery", "moving"),
)
"""Tables in which workers look across tenants for what there is to do."""
NOT_READ = ("audit_state",)
NOT_WRITTEN = ("audit_entry", *NOT_READ)
"""Tables in which the API's role has less to do than with others."""
NOBODYS = ("moving",)
"""Tables in which neither role writes."""


async def test_a_token_reaches_nothing_of_another_tenant(
    stack: Stack, public: Api, tenant: Tenant, other: Tenant
) -> None:
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
    endpoint = (await theirs.send("POST", f"{V1}/webhook-endpoints", {"url": "https://t.example/"})).expect(201)
    (await theirs.send("POST", f"{V1}/customers", {"name": "To be told of"})).expect(201)

    async def queued() -> str | None:
        params = {"endpoint_id": endpoint["id"]}
        items = (await theirs.send("GET", f"{V1}/webhook-deliveries", params=params)).expect(200)["items"]
        return items[0]["id"] if items else None

    ids |= {"endpoint": endpoint["id"], "delivery": await eventually(queued)}
    user = (await theirs.send("GET", f"{V1}/users")).expect(200)["items"][0]["id"]
    own = await sign_in(public, tenant.administrator, PASSWORD, tenant.slug)
    session = (await theirs.send("GET", f"{V1}/sessions")).expect(200)["items"][0]["id"]
    data = {"name": "theirs", "scopes": ["customers:read"]}
    role = (await theirs.send("POST", f"{V1}/roles", data)).expect(201)["id"]
    service = (await theirs.send("POST", f"{V1}/service-accounts", data)).expect(201)
    key = (await public.as_(own).send("POST", f"{V1}/api-keys", data)).expect(201)["id"]
    ids |= {"session": session, "role": role, "api_key": key}
    ids |= {"service_account": service["id"], "credential": service["credential_id"]}
    ids |= {"deployment": tenant.deployment["id"], "tenant": tenant.id, "user": user, "letter": "1"}
    tried = 0
    for method, template in sorted(theirs.operations):
        for name in re.findall(r"{(\w+)_id}", template):
            if name not in ids:
                continue
            path = re.sub(r"{\w+}", ids[name], template)
            body = {} if method in ("PATCH", "POST") else None
            answer = await mine.send(method, path, body, headers={"If-Match": "*"})
            # A tenant has no scope for tenants or dead letters; of all else it can't tell whether the thing exists.
            forbidden = name in ("tenant", "letter") or (name, method) == ("deployment", "POST")
            answer.problem(403 if forbidden else 404)
            tried += 1
    assert tried >= 28
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
        ("/users", {"tenant_id": tenant.id}),
        ("/sessions", {"user_id": user}),
        ("/api-keys", {"user_id": user}),
        ("/audit-entries", {"tenant_id": tenant.id}),
        ("/audit-entries", {"resource_id": customer["id"]}),
    ):
        assert (await mine.send("GET", V1 + path, params=params)).expect(200)["items"] == []
    (await theirs.send("DELETE", f"{V1}/webhook-endpoints/{endpoint['id']}")).expect(204)
    (await theirs.send("DELETE", f"{V1}/roles/{role}")).expect(204)
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
                scans = name in SCANNED and role == "consumer"
                await connection.execute(f"reset {setting}")
                delete = f"delete from {name} where tenant_id = '{tenant.id}'"
                refused = name in NOBODYS or (role == "api" and name in NOT_WRITTEN)
                if refused:
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await connection.execute(delete)
                    if name in NOT_READ:
                        continue
                if not scans:
                    assert await connection.fetchval(f"select count(*) from {name}") == 0, name
                await connection.execute(f"set {setting} = '{other.id}'")
                query = f"select count(*) from {name} where tenant_id = '{tenant.id}'"
                if not scans:
                    assert await connection.fetchval(query) == 0, name
                if not refused:
                    assert await connection.execute(delete) == "DELETE 0"
        finally:
            await connection.close()


async def test_a_service_can_not_enter_anothers_database(stack: Stack) -> None:
    url = stack.database_url("customer", "api").replace("dotmac_customer", "dotmac_billing")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(url)


async def test_a_service_reached_directly_keeps_tenants_apart_by_itself(
    stack: Stack, tenant: Tenant, other: Tenant
) -> None:
    customer = (await tenant.api.send("POST", f"{V1}/customers", {"name": "Only theirs"})).expect(201)
    direct = replace(other.api, url=stack.url("customer"))
    path = f"{V1}/customers/{customer['id']}"
    (await direct.send("GET", path)).problem(404)
    (await direct.send("PATCH", path, {"name": "Mine"}, headers={"If-Match": "*"})).problem(404)
    (await direct.send("POST", f"{path}/terminate", {})).problem(404)
    # What the gateway knows of the caller travels in the token alone.
    claims = {"X-Tenant-ID": tenant.id, "X-Forwarded-User": tenant.id, "X-User-ID": tenant.id, "X-Scope": "admin"}
    (await direct.send("GET", path, headers=claims)).problem(404)
    (await direct.send("GET", path, params={"tenant_id": tenant.id})).problem(404)


async def test_an_import_and_its_rejected_rows_are_the_tenants_own(tenant: Tenant, other: Tenant) -> None:
    job = await imported(tenant.api, "name,email\nSecret Person,not-an-address\n")
    for path in (f"{V1}/customers/imports/{job['id']}", f"{V1}/customers/imports/{job['id']}/rejections"):
        assert "Secret Person" in str((await tenant.api.send("GET", path)).body) or path.endswith(job["id"])
        (await other.api.send("GET", path)).problem(404)


async def test_an_idempotency_key_gives_nobody_anothers_answer(tenant: Tenant, other: Tenant) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    body = {"name": "By key"}
    theirs = (await tenant.api.send("POST", f"{V1}/customers", body, headers=key)).expect(201)
    mine = await other.api.send("POST", f"{V1}/customers", body, headers=key)
    assert mine.expect(201)["id"] != theirs["id"]
    assert "Idempotency-Replayed" not in mine.headers


async def test_a_cursor_carries_nobody_into_anothers_list(tenant: Tenant, other: Tenant) -> None:
    for name in ("first", "second"):
        (await tenant.api.send("POST", f"{V1}/customers", {"name": name})).expect(201)
    page = (await tenant.api.send("GET", f"{V1}/customers", params={"limit": "1"})).expect(200)
    params = {"cursor": page["next_cursor"], "limit": "200"}
    seen = {
        item["id"] for item in (await tenant.api.send("GET", f"{V1}/customers", params=params)).expect(200)["items"]
    }
    mine = (await other.api.send("GET", f"{V1}/customers", params=params)).expect(200)["items"]
    assert seen
    assert not seen & {item["id"] for item in mine}
