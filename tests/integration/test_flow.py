"""The main job through the gateway, operation by operation."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from chassis.ids import PLATFORM_TENANT
from deploy.stack.stack import Stack
from dotmac_contracts.envelope import decode
from tests.api import Api, eventually
from tests.conftest import Tenant, registration
from tests.deployments import past_security

V1 = "/api/v1"


async def imported(api: Api, content: str, kind: str = "text/csv") -> dict[str, Any]:
    """Import and wait for the end."""
    headers = {"Content-Type": kind}
    job = (await api.send("POST", f"{V1}/customers/imports", raw=content.encode(), headers=headers)).expect(202)

    async def ended() -> dict[str, Any] | None:
        state: dict[str, Any] = (await api.send("GET", f"{V1}/customers/imports/{job['id']}")).expect(200)
        return state if state["status"] == "completed" else None

    return await eventually(ended)


async def billed(api: Api, period: str) -> dict[str, Any]:
    run = (await api.send("POST", f"{V1}/billing-runs", {"period": period})).expect(202)

    async def ended() -> dict[str, Any] | None:
        state: dict[str, Any] = (await api.send("GET", f"{V1}/billing-runs/{run['id']}")).expect(200)
        return state if state["status"] == "completed" else None

    return await eventually(ended)


async def accounts(api: Api, count: int) -> None:
    """Return once a tenant whom this test alone uses has so many billing accounts."""

    async def opened() -> bool:
        return bool((await api.send("GET", f"{V1}/billing-accounts/summary")).expect(200)["count"] >= count)

    await eventually(opened)


async def accounts_of(api: Api, *references: str) -> None:
    """Return once the customers with these references have billing accounts, whoever else has any."""

    async def opened() -> bool:
        return all(
            [
                (await api.send("GET", f"{V1}/billing-accounts", params={"external_reference": reference})).expect(200)[
                    "items"
                ]
                for reference in references
            ]
        )

    await eventually(opened)


async def test_a_deployment_shows_every_step_with_its_times(tenant: Tenant, platform: Api) -> None:
    assert tenant.deployment["status"] == "succeeded"
    names = [step["name"] for step in tenant.deployment["steps"]]
    assert names == ["allocate", "prepare_workspaces", "create_administrator", "verify"]
    for step in tenant.deployment["steps"]:
        assert step["status"] == "succeeded"
        assert step["started_at"] <= step["finished_at"]

    async def active() -> bool:
        answer = await platform.send("GET", f"{V1}/tenants/{tenant.id}")
        return bool(answer.expect(200)["status"] == "active")

    await eventually(active)
    listed = (await platform.send("GET", f"{V1}/deployments", params={"tenant_id": tenant.id})).expect(200)
    assert [item["id"] for item in listed["items"]] == [tenant.deployment["id"]]


async def test_tenants_are_registered_changed_and_listed(platform: Api) -> None:
    data = registration()
    key = {"Idempotency-Key": data["slug"]}
    created = await platform.send("POST", f"{V1}/tenants", data, headers=key)
    again = await platform.send("POST", f"{V1}/tenants", data, headers=key)
    assert again.expect(201) == created.expect(201)
    (await platform.send("POST", f"{V1}/tenants", registration(), headers=key)).problem(422, "idempotency-key-reused")
    (await platform.send("POST", f"{V1}/tenants", data)).problem(409, "slug-taken")
    path = f"{V1}/tenants/{created.body['id']}"
    (await platform.send("PATCH", path, {"name": "New"})).problem(428)
    (await platform.send("PATCH", path, {"name": "New"}, headers={"If-Match": '"9"'})).problem(412)
    changed = await platform.send("PATCH", path, {"name": "New"}, headers={"If-Match": created.headers["ETag"]})
    assert changed.expect(200)["name"] == "New"
    assert changed.headers["ETag"] == '"2"'
    same = await platform.send("PATCH", path, {"name": "New"}, headers={"If-Match": '"2"'})
    assert (same.expect(200), same.headers["ETag"]) == (changed.body, '"2"')  # one version is one text
    listed = (await platform.send("GET", f"{V1}/tenants", params={"slug": data["slug"]})).expect(200)
    assert [item["id"] for item in listed["items"]] == [created.body["id"]]
    (await platform.send("POST", f"{path}/invitations")).problem(409, "not-deployed")
    (await platform.send("POST", f"{V1}/deploy", {"tenant_id": created.body["id"]})).expect(202)
    (await platform.send("POST", f"{V1}/deploy", {"tenant_id": created.body["id"]})).problem(409, "wrong-state")


async def test_documents_and_keys_are_public(public: Api) -> None:
    keys = (await public.send("GET", "/.well-known/jwks.json")).expect(200)
    assert "d" not in keys["keys"][0]
    document = (await public.send("GET", "/openapi.json")).expect(200)
    assert document["openapi"].startswith("3.1")
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))
    assert set(references) <= document["components"]["schemas"].keys()
    for page in ("/docs", "/asyncapi.yaml", "/health/live", "/health/ready", "/metrics", "/"):
        assert (await public.send("GET", page)).status == 200


async def test_a_customer_from_creation_to_termination(tenant: Tenant) -> None:
    api = tenant.api
    (await api.send("GET", f"{V1}/workspace")).expect(200)
    (await api.send("GET", f"{V1}/billing-workspace")).expect(200)
    body = {"external_reference": "one-1", "name": "Ada Lovelace", "email": "Ada@Example.com", "city": "London"}
    created = await api.send("POST", f"{V1}/customers", body, headers={"Idempotency-Key": "ada"})
    customer = created.expect(201)
    assert (await api.send("POST", f"{V1}/customers", body, headers={"Idempotency-Key": "ada"})).body == customer
    (await api.send("POST", f"{V1}/customers", body)).problem(409, "reference-taken")
    path = f"{V1}/customers/{customer['id']}"
    changed = await api.send("PATCH", path, {"city": "Paris"}, headers={"If-Match": created.headers["ETag"]})
    assert changed.expect(200)["city"] == "Paris"
    assert (await api.send("GET", path)).expect(200) == changed.body
    for search in ({"q": "ada l"}, {"email": "ada@example.COM"}, {"city": "paris"}, {"external_reference": "one-1"}):
        found = (await api.send("GET", f"{V1}/customers", params=search)).expect(200)
        assert [item["id"] for item in found["items"]] == [customer["id"]], search

    async def opened() -> Any:
        params = {"customer_id": customer["id"]}
        return (await api.send("GET", f"{V1}/billing-accounts", params=params)).expect(200)["items"] or None

    (account,) = await eventually(opened)
    assert (await api.send("GET", f"{V1}/billing-accounts/{account['id']}")).expect(200)["status"] == "open"
    order = {"customer_id": customer["id"], "plan_code": "DSL"}
    subscription = (await api.send("POST", f"{V1}/subscriptions", order)).expect(201)
    assert subscription["price"] == {"amount_minor": 4000, "currency": "USD"}
    (await api.send("POST", f"{V1}/subscriptions", order)).problem(409, "already-subscribed")
    assert (await api.send("POST", f"{path}/terminate", {"reason": "moved"})).expect(200)["status"] == "terminated"
    (await api.send("POST", f"{path}/terminate", {})).problem(409, "wrong-state")

    async def closed() -> bool:
        found = (await api.send("GET", f"{V1}/subscriptions/{subscription['id']}")).expect(200)
        return found["cancelled_on"] is not None

    await eventually(closed)


async def test_plans_subscriptions_invoices_and_payments(stack: Stack, tenant: Tenant) -> None:
    api = tenant.api
    price = {"amount_minor": 2999, "currency": "USD"}
    created = await api.send("POST", f"{V1}/plans", {"code": "TV", "name": "Television", "price": price})
    plan = created.expect(201)
    path = f"{V1}/plans/{plan['id']}"
    etag = {"If-Match": (await api.send("GET", path)).headers["ETag"]}
    assert (await api.send("PATCH", path, {"name": "TV"}, headers=etag)).expect(200)["name"] == "TV"
    listed = (await api.send("GET", f"{V1}/plans", params={"code": "TV"})).expect(200)
    assert [item["id"] for item in listed["items"]] == [plan["id"]]
    await imported(api, "external_reference,name\np-1,Grace\np-2,Edsger\n")
    await accounts_of(api, "p-1", "p-2")
    own = {"amount_minor": 1234, "currency": "USD"}
    items = [
        {"customer_external_reference": "p-1", "plan_code": "TV", "started_on": "2026-01-01"},
        {"customer_external_reference": "p-2", "plan_code": "TV", "started_on": "2026-03-17", "price": own},
        {"customer_external_reference": "nobody", "plan_code": "TV"},
    ]
    bulk = (await api.send("POST", f"{V1}/subscriptions/bulk", {"items": items})).expect(200)
    assert (bulk["created"], bulk["unchanged"], [item["index"] for item in bulk["rejected"]]) == (2, 0, [2])
    bulk = (await api.send("POST", f"{V1}/subscriptions/bulk", {"items": items})).expect(200)
    assert (bulk["created"], bulk["unchanged"]) == (0, 2)
    run = await billed(api, "2026-03")
    assert (run["invoices"], run["total"]["amount_minor"]) == (2, 2999 + 597)  # 1234 * 15/31 = 597.1
    assert (await billed(api, "2026-03"))["invoices"] == 0
    assert len((await api.send("GET", f"{V1}/billing-runs")).expect(200)["items"]) >= 2
    summary = (await api.send("GET", f"{V1}/invoices/summary", params={"period": "2026-03"})).expect(200)
    assert summary == {"count": 2, "total": {"amount_minor": 3596, "currency": "USD"}}
    invoices = (await api.send("GET", f"{V1}/invoices", params={"period": "2026-03"})).expect(200)["items"]
    assert [invoice["number"] for invoice in invoices] == ["INV-000001", "INV-000002"]
    first = (await api.send("GET", f"{V1}/invoices/{invoices[0]['id']}")).expect(200)
    assert sum(line["amount"]["amount_minor"] for line in first["lines"]) == first["total"]["amount_minor"]
    amount = {"amount_minor": first["total"]["amount_minor"] + 100, "currency": "USD"}
    payment = {"account_id": first["account_id"], "amount": amount, "method": "cash"}
    paid = (await api.send("POST", f"{V1}/payments", payment, headers={"Idempotency-Key": "pay"})).expect(201)
    assert paid["allocated"] == first["total"]
    assert (await api.send("POST", f"{V1}/payments", payment, headers={"Idempotency-Key": "pay"})).body == paid
    assert (await api.send("GET", f"{V1}/payments/{paid['id']}")).expect(200) == paid
    assert len((await api.send("GET", f"{V1}/payments")).expect(200)["items"]) == 1
    assert (await api.send("GET", f"{V1}/invoices/{first['id']}")).expect(200)["status"] == "paid"
    subscriptions = (await api.send("GET", f"{V1}/subscriptions", params={"plan_id": plan["id"]})).expect(200)["items"]
    assert (await api.send("GET", f"{V1}/subscriptions/summary")).expect(200)["count"] >= 2
    cancel = f"{V1}/subscriptions/{subscriptions[0]['id']}/cancel"
    assert (await api.send("POST", cancel)).expect(200)["cancelled_on"]
    (await api.send("POST", cancel)).problem(409, "wrong-state")
    connection = await asyncpg.connect(stack.database_url("billing", "consumer"))
    try:
        await connection.execute(f"set app.tenant_ids = '{tenant.id}'")
        assert await connection.fetchval("select sum(amount_minor) from ledger_entry") == 0
        assert await connection.fetchval("select count(*) from ledger_entry") == 6
    finally:
        await connection.close()


async def test_an_import_reports_each_row_and_a_second_time_changes_nothing(tenant: Tenant) -> None:
    api = tenant.api
    content = (
        "external_reference,name,email,country\n"
        'i-1,"Smith, ""Jo""\nand family",jo@example.com,US\n'
        "i-2,No Address,not-an-address,US\n"
        "i-1,Again,,\n"
        "i-3,Too,many,US,columns\n"
        "i-4,,,\n"
    )
    first = await imported(api, content.replace("\n" + "and family", " and family"))
    assert (first["total"], first["created"], first["rejected"]) == (5, 1, 4)
    rejections = (await api.send("GET", f"{V1}/customers/imports/{first['id']}/rejections")).expect(200)["items"]
    assert [(item["line"], item["reason"]) for item in rejections] == [
        (3, "email is not an address"),
        (4, "line 2 has the same external_reference"),
        (5, "it has 5 columns, the header has 4"),
        (6, "name is missing"),
    ]
    again = await imported(api, content.replace("\n" + "and family", " and family"))
    assert (again["created"], again["updated"], again["unchanged"], again["rejected"]) == (0, 0, 1, 4)
    line = {"external_reference": "i-1", "name": "Jo", "status": "active"}
    changed = await imported(api, json.dumps(line) + "\nno json\n[]\n", "application/x-ndjson")
    assert (changed["updated"], changed["rejected"]) == (1, 2)
    assert len((await api.send("GET", f"{V1}/customers/imports")).expect(200)["items"]) >= 3
    summary = (await api.send("GET", f"{V1}/customers/summary")).expect(200)
    assert summary["total"] == summary["active"] + summary["terminated"]


async def test_an_upload_and_an_invitation_that_are_sent_again_get_the_first_answer(
    tenant: Tenant, platform: Api, stack: Stack
) -> None:
    key = {"Idempotency-Key": "upload-1", "Content-Type": "text/csv"}
    path = f"{V1}/customers/imports"
    first = await tenant.api.send("POST", path, raw=b"name\nOnce\n", headers=key)
    again = await tenant.api.send("POST", path, raw=b"name\nOnce\n", headers=key)
    assert again.expect(202) == first.expect(202)
    assert again.headers["Idempotency-Replayed"] == "true"
    (await tenant.api.send("POST", path, raw=b"name\nOther\n", headers=key)).problem(422, "idempotency-key-reused")
    listed = (await tenant.api.send("GET", path, params={"limit": "200"})).expect(200)["items"]
    assert [item["id"] for item in listed].count(first.body["id"]) == 1
    assert all(item["status"] != "uploading" for item in listed)

    data = registration()
    isp = (await platform.send("POST", f"{V1}/tenants", data)).expect(201)
    (await platform.send("POST", f"{V1}/tenants/{isp['id']}/deployments")).expect(202)

    async def active() -> bool:
        return bool((await platform.send("GET", f"{V1}/tenants/{isp['id']}")).expect(200)["status"] == "active")

    await eventually(active)
    invite = f"{V1}/tenants/{isp['id']}/invitations"
    one = (await platform.send("POST", invite, headers={"Idempotency-Key": data["slug"]})).expect(201)
    two = (await platform.send("POST", invite, headers={"Idempotency-Key": data["slug"]})).expect(201)
    other = (await platform.send("POST", invite)).expect(201)
    assert one == two
    assert one["token"] != other["token"]
    connection = await asyncpg.connect(stack.database_url("tenant", "api"))
    try:
        await connection.execute(f"set app.tenant_id = '{PLATFORM_TENANT}'")
        kept = await connection.fetchval(
            "select body from idempotency_key where key = $1 and body is not null", data["slug"]
        )
    finally:
        await connection.close()
    assert kept
    assert one["token"].encode() not in kept


async def test_a_slow_upload_holds_no_connection_and_one_that_breaks_off_leaves_nothing(
    stack: Stack, tenant: Tenant
) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"name\n" + b"".join(b"Slow %d\n" % number for number in range(1500))
        arrived.set()
        await go_on.wait()
        raise ConnectionResetError("the client's line is cut")

    headers = {"Content-Type": "text/csv", "Authorization": f"Bearer {tenant.api.token}"}
    path = f"{tenant.api.url}{V1}/customers/imports"
    uploading = asyncio.ensure_future(tenant.api.http.post(path, data=body(), headers=headers))
    await arrived.wait()

    async def staged() -> Any:
        items = (await tenant.api.send("GET", f"{V1}/customers/imports", params={"limit": "200"})).expect(200)["items"]
        return next((item for item in items if item["status"] == "uploading"), None)

    job = UUID((await eventually(staged))["id"])
    async with past_security(stack, "customer") as database:

        async def a_chunk() -> bool:
            return bool(await database.fetchval("select exists (select from import_chunk where import_id = $1)", job))

        async def none_open() -> bool:  # others' are short
            count = await database.fetchval(
                "select count(*) from pg_stat_activity where datname = 'dotmac_customer' and xact_start is not null"
                " and usename = 'customer_api'"
            )
            return bool(count == 0)

        await eventually(a_chunk)
        await eventually(none_open)
    go_on.set()
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await uploading

    async def gone() -> bool:
        return await staged() is None

    await eventually(gone)


async def test_pages_follow_each_other_without_gap_or_repetition(other: Tenant) -> None:
    rows = "".join(f"page-{number},Name {number}\n" for number in range(25))
    await imported(other.api, "external_reference,name\n" + rows)
    seen: list[str] = []
    params = {"limit": "10"}
    while True:
        page = (await other.api.send("GET", f"{V1}/customers", params=params)).expect(200)
        seen += [item["external_reference"] or item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert len(set(seen)) == len(seen)
    assert {reference for reference in seen if reference.startswith("page-")} == {f"page-{it}" for it in range(25)}


async def test_a_trace_follows_a_request_into_the_consumers_events(stack: Stack, tenant: Tenant) -> None:
    trace = "0af7651916cd43dd8448eb211c80319d"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    created = await tenant.api.send("POST", f"{V1}/customers", {"name": "Traced"}, headers=headers)
    customer = created.expect(201)
    relay = await asyncpg.connect(stack.database_url("billing", "relay"))

    async def opened() -> Any:
        rows = await relay.fetch("select headers, value from journal where topic = 'billing.account.v1'")
        for row in rows:
            envelope, event = decode(
                [(name, value.encode()) for name, value in json.loads(row["headers"]).items()], row["value"]
            )
            if str(getattr(event, "customer_id", "")) == customer["id"]:
                return envelope
        return None

    try:
        envelope = await eventually(opened)
    finally:
        await relay.close()
    assert envelope.traceparent is not None
    assert envelope.traceparent.split("-")[1] == trace
    assert envelope.causationid is not None
