"""API3: nobody sets what is not theirs to set, and nobody is shown what is not theirs to see."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.api import Api, eventually
from tests.conftest import Tenant, registration

V1 = "/api/v1"
# What the platform decides, or another aggregate owns.
ASSIGNED = {
    "id": str(uuid4()),
    "tenant_id": str(uuid4()),
    "version": 99,
    "status": "terminated",
    "created_at": "2000-01-01T00:00:00Z",
    "roles": ["platform_admin"],
    "scope": "tenants:write",
    "is_admin": True,
    "password_hash": "x",
    "deployment_id": str(uuid4()),
    "__proto__": {"admin": True},
    "$where": "1",
}
# A webhook's secret is its receiver's, a service account's its program's, and each is told when it is made.
TOLD_ONCE = {
    (f"{V1}/webhook-endpoints", "post"),
    (f"{V1}/webhook-endpoints/{{endpoint_id}}/rotate-secret", "post"),
    (f"{V1}/service-accounts", "post"),
    (f"{V1}/auth/second-factor", "post"),
    (f"{V1}/service-accounts/{{service_account_id}}/credentials", "post"),
}
NEVER_SHOWN = ("password", "hash", "secret", "private", "token_hash", "email_lc", "name_lc", "request_hash", "internal")


async def document(public: Api) -> dict[str, Any]:
    found: dict[str, Any] = (await public.send("GET", "/openapi.json")).expect(200)
    return found


def resolved(schema: dict[str, Any], api: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return resolved(api["components"]["schemas"][reference.rsplit("/", 1)[-1]], api) if reference else schema


def objects(schema: dict[str, Any], api: dict[str, Any], at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object inside a schema with its place."""
    schema = resolved(schema, api)
    if "properties" in schema or schema.get("type") == "object":
        yield at, schema
    for name, part in schema.get("properties", {}).items():
        yield from objects(part, api, f"{at}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from objects(schema["items"], api, f"{at}[]")
    for part in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
        yield from objects(part, api, at)


async def test_no_request_takes_properties_that_its_schema_does_not_name(public: Api) -> None:
    api = await document(public)
    looked_at = 0
    for path, item in api["paths"].items():
        for verb, operation in item.items():
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                if kind != "application/json":
                    continue
                for place, schema in objects(content["schema"], api):
                    assert schema.get("additionalProperties") is False, f"{verb} {path} {place} takes anything"
                    looked_at += 1
    assert looked_at >= 10


@pytest.mark.parametrize("name", ASSIGNED)
async def test_what_the_platform_decides_can_not_be_assigned(tenant: Tenant, platform: Api, name: str) -> None:
    extra = {name: ASSIGNED[name]}
    customer = (await tenant.api.send("POST", f"{V1}/customers", {"name": "Before"})).expect(201)
    path = f"{V1}/customers/{customer['id']}"
    any_version = {"If-Match": "*"}
    plan = (await tenant.api.send("GET", f"{V1}/plans", params={"code": "DSL"})).expect(200)["items"][0]
    isp = f"{V1}/tenants/{tenant.id}"
    before = (await platform.send("GET", isp)).expect(200)
    for answer in (
        await tenant.api.send("POST", f"{V1}/customers", {"name": "x", **extra}),
        await tenant.api.send("PATCH", path, {"name": "x", **extra}, headers=any_version),
        await tenant.api.send("POST", f"{path}/terminate", extra),
        await tenant.api.send("POST", f"{V1}/subscriptions", {"plan_code": "DSL", **extra}),
        await tenant.api.send("PATCH", f"{V1}/plans/{plan['id']}", {"name": "x", **extra}, headers=any_version),
        await tenant.api.send("POST", f"{V1}/billing-runs", {"period": "2026-01", **extra}),
        await platform.send("POST", f"{V1}/tenants", registration(**extra)),
        await platform.send("PATCH", isp, {"name": "x", **extra}, headers=any_version),
    ):
        answer.problem(422)
    assert (await tenant.api.send("GET", path)).expect(200) == customer
    assert (await platform.send("GET", isp)).expect(200) == before


async def test_what_others_have_built_on_can_not_be_changed(tenant: Tenant, platform: Api) -> None:
    path = f"{V1}/tenants/{tenant.id}"
    for change in ({"slug": "another"}, {"currency": "EUR"}, {"status": "active"}):
        (await platform.send("PATCH", path, change, headers={"If-Match": "*"})).problem(422)


async def test_an_imported_row_sets_no_more_than_a_request_can(tenant: Tenant) -> None:
    line = b'{"name": "x", "tenant_id": "00000000-0000-0000-0000-000000000000", "version": 7}\n'
    headers = {"Content-Type": "application/x-ndjson"}
    job = (await tenant.api.send("POST", f"{V1}/customers/imports", raw=line, headers=headers)).expect(202)

    async def ended() -> dict[str, Any] | None:
        state: dict[str, Any] = (await tenant.api.send("GET", f"{V1}/customers/imports/{job['id']}")).expect(200)
        return state if state["status"] == "completed" else None

    state = await eventually(ended)
    assert (state["created"], state["rejected"]) == (0, 1)


async def test_no_answer_has_properties_that_nobody_should_see(public: Api) -> None:
    api = await document(public)
    shown = 0
    for path, item in api["paths"].items():
        for verb, operation in item.items():
            for status, answer in operation["responses"].items():
                for content in answer.get("content", {}).values():
                    for _, schema in objects(content["schema"], api):
                        shown += 1
                        for name in schema.get("properties", {}):
                            hidden = [word for word in NEVER_SHOWN if word in name]
                            if (path, verb) in TOLD_ONCE and name == "secret":
                                continue
                            assert not hidden, f"{verb} {path} {status} shows {name}"
    assert shown >= 40


async def test_answers_have_what_their_schemas_name_and_no_more(public: Api, tenant: Tenant, platform: Api) -> None:
    """The schemas are looked at above; here what really comes is held against them."""
    api = await document(public)
    customer = (await tenant.api.send("POST", f"{V1}/customers", {"name": "Shown"})).expect(201)
    for who, template, path in (
        (platform, "/tenants", "/tenants"),
        (platform, "/tenants/{tenant_id}", f"/tenants/{tenant.id}"),
        (platform, "/users", "/users"),
        (platform, "/deployments/{deployment_id}", f"/deployments/{tenant.deployment['id']}"),
        (tenant.api, "/customers", "/customers"),
        (tenant.api, "/customers/{customer_id}", f"/customers/{customer['id']}"),
        (tenant.api, "/workspace", "/workspace"),
        (tenant.api, "/billing-workspace", "/billing-workspace"),
        (tenant.api, "/billing-accounts", "/billing-accounts"),
        (tenant.api, "/plans", "/plans"),
        (tenant.api, "/subscriptions", "/subscriptions"),
        (tenant.api, "/invoices", "/invoices"),
    ):
        answer = (await who.send("GET", V1 + path)).expect(200)
        schema = api["paths"][V1 + template]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert_no_more(answer, schema, api, path)


def assert_no_more(value: Any, schema: dict[str, Any], api: dict[str, Any], at: str) -> None:
    schema = resolved(schema, api)
    if isinstance(value, list):
        for item in value:
            assert_no_more(item, schema["items"], api, f"{at}[]")
    elif isinstance(value, dict) and "properties" in schema:
        assert value.keys() <= schema["properties"].keys(), at
        for name, part in value.items():
            assert_no_more(part, schema["properties"][name], api, f"{at}.{name}")


async def test_a_secret_that_is_shown_once_is_kept_by_no_cache(public: Api, tenant: Tenant) -> None:
    form = {"username": tenant.administrator, "password": "correct horse battery", "tenant": tenant.slug}
    answer = await public.send("POST", f"{V1}/auth/token", form=form)
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await tenant.api.send("GET", f"{V1}/customers")).headers["Cache-Control"] == "no-store"
