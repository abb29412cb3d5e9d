"""API4: nothing that a client sends makes the platform hold or do more than is stated.

Bodies, heads and slowness are in test_malformed_http.py; rates and concurrency are the gateway's.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from deploy.stack.stack import Stack
from tests.api import Api
from tests.conftest import Tenant
from tests.integration.test_flow import imported
from tests.security.test_api03_broken_object_property_level_authorization import document, resolved

V1 = "/api/v1"
BOUNDED = ("maxLength", "enum", "const", "format")


def leaves(schema: dict[str, Any], api: dict[str, Any], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    schema = resolved(schema, api)
    kinds = [*schema.get("anyOf", ()), *schema.get("allOf", ())]
    for part in kinds:
        yield from leaves(part, api, at)
    for name, part in schema.get("properties", {}).items():
        yield from leaves(part, api, f"{at}.{name}")
    if schema.get("type") == "array":
        yield at, schema
        yield from leaves(schema["items"], api, f"{at}[]")
    elif not kinds and schema.get("type") in ("string", "integer", "number"):
        yield at, schema


def _ends(pattern: str) -> bool:
    """Say whether a pattern bounds how long a text is: anchored, and nothing in it repeats without end."""
    return pattern.startswith("^") and pattern.endswith("$") and not re.search(r"[*+]|,\}", pattern)


async def test_every_value_that_a_client_sends_is_bounded(public: Api) -> None:
    api = await document(public)
    looked_at = 0
    for path, item in api["paths"].items():
        for verb, operation in item.items():
            parts = [
                (parameter["name"], parameter["schema"])
                for parameter in operation.get("parameters", ())
                if parameter["name"] != "If-Match"
            ]
            parts += [
                ("body", content["schema"])
                for kind, content in operation.get("requestBody", {}).get("content", {}).items()
                if kind in ("application/json", "application/x-www-form-urlencoded")
            ]
            for name, schema in parts:
                for place, leaf in leaves(schema, api, name):
                    where = f"{verb} {path} {place}: {leaf}"
                    match leaf["type"]:
                        case "array":
                            assert "maxItems" in leaf, where
                        case "string":
                            assert any(key in leaf for key in BOUNDED) or _ends(leaf.get("pattern", ".*")), where
                        case _:
                            assert "maximum" in leaf, where
                    looked_at += 1
    assert looked_at >= 50


async def test_a_list_gives_at_most_a_page(other: Tenant) -> None:
    rows = "".join(f"page-limit-{number},Name {number}\n" for number in range(450))
    await imported(other.api, "external_reference,name\n" + rows)
    page = (await other.api.send("GET", f"{V1}/customers", params={"limit": "200"})).expect(200)
    assert len(page["items"]) == 200
    assert page["next_cursor"]
    assert len((await other.api.send("GET", f"{V1}/customers")).expect(200)["items"]) == 50


async def test_a_bulk_request_takes_at_most_its_thousand(tenant: Tenant) -> None:
    order = {"customer_external_reference": "x", "plan_code": "DSL"}
    (await tenant.api.send("POST", f"{V1}/subscriptions/bulk", {"items": [order] * 1001})).problem(422)


async def test_a_parameter_may_not_come_in_a_flood(tenant: Tenant) -> None:
    query = "&".join(f"x{number}=1" for number in range(700))
    answer = await tenant.api.send("GET", f"{V1}/customers?{query}")
    assert answer.status == 200
    (await tenant.api.send("GET", f"{V1}/customers?{query}&{query}")).problem(414)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"name\n" + b'"' + b"a\n" * 100_000, "text/csv"),
        (b"name" + b",c" * 40_000 + b"\nx\n", "text/csv"),
        (b'{"name": "' + b"x" * 70_000 + b'"}\n', "application/x-ndjson"),
        (b'{"name":' * 9_000 + b"\n", "application/x-ndjson"),
    ],
)
async def test_a_line_of_a_file_may_not_be_endless(tenant: Tenant, content: bytes, kind: str) -> None:
    path = f"{V1}/customers/imports"
    (await tenant.api.send("POST", path, raw=content, headers={"Content-Type": kind})).problem(413)


async def test_deep_json_in_a_file_is_a_rejected_row(tenant: Tenant) -> None:
    deep = '{"name": ' + "[" * 5_000 + "]" * 5_000 + "}\n"
    state = await imported(tenant.api, deep + json.dumps({"name": "Shallow"}) + "\n", "application/x-ndjson")
    assert (state["created"], state["rejected"]) == (1, 1)


async def test_a_request_that_waits_for_the_database_gives_up(stack: Stack, tenant: Tenant) -> None:
    customer = (await tenant.api.send("POST", f"{V1}/customers", {"name": "Locked"})).expect(201)
    path = f"{V1}/customers/{customer['id']}"
    holder = await asyncpg.connect(stack.database_url("customer", "api"))
    try:
        async with holder.transaction():
            await holder.execute(f"set local app.tenant_id = '{tenant.id}'")
            await holder.execute("select 1 from customer where customer_id = $1 for update", customer["id"])
            answer = await tenant.api.send("PATCH", path, {"name": "x"}, headers={"If-Match": "*"})
            answer.problem(503, "unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
    finally:
        await holder.close()
    (await tenant.api.send("PATCH", path, {"name": "x"}, headers={"If-Match": "*"})).expect(200)
