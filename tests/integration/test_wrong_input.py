"""Wrong input gets a problem and changes nothing; never a 5xx."""

import re
from typing import Any
from uuid import uuid4

import pytest

from tests.api import Api
from tests.conftest import Tenant, registration

V1 = "/api/v1"

BODIES: list[tuple[str, Any]] = [
    ("/customers", {}),
    ("/customers", {"name": 7}),
    ("/customers", {"name": ""}),
    ("/customers", {"name": "a\u0000b"}),
    ("/customers", {"name": "x" * 201}),
    ("/customers", {"name": "x", "email": "nobody"}),
    ("/customers", {"name": "x", "country": "us"}),
    ("/customers", {"name": "x", "unknown": 1}),
    ("/customers", [1, 2]),
    ("/plans", {"code": "A B", "name": "x", "price": {"amount_minor": 1, "currency": "USD"}}),
    ("/plans", {"code": "A", "name": "x", "price": {"amount_minor": -1, "currency": "USD"}}),
    ("/plans", {"code": "A", "name": "x", "price": {"amount_minor": 1.5, "currency": "USD"}}),
    ("/plans", {"code": "A", "name": "x", "price": {"amount_minor": 1, "currency": "EUR"}}),
    ("/plans", {"code": "A", "name": "x", "price": {"amount_minor": 1, "currency": "XXX"}}),
    ("/plans", {"code": "A", "name": "x", "price": {"amount_minor": 10**30, "currency": "USD"}}),
    ("/subscriptions", {"plan_code": "DSL"}),
    ("/subscriptions", {"plan_code": "DSL", "customer_id": str(uuid4())}),
    ("/subscriptions", {"plan_code": "DSL", "customer_external_reference": "a\u0000"}),
    ("/subscriptions/bulk", {"items": []}),
    ("/billing-runs", {"period": "2026-13"}),
    ("/billing-runs", {"period": "\u0662026-01"}),
    ("/payments", {"account_id": "no", "amount": {"amount_minor": 1, "currency": "USD"}, "method": "cash"}),
    ("/payments", {"account_id": str(uuid4()), "amount": {"amount_minor": 0, "currency": "USD"}, "method": "cash"}),
    ("/payments", {"account_id": str(uuid4()), "amount": {"amount_minor": 1, "currency": "USD"}, "method": "cash"}),
]


@pytest.mark.parametrize(("path", "body"), BODIES, ids=lambda value: str(value)[:40])
async def test_a_wrong_body_is_refused(tenant: Tenant, path: str, body: Any) -> None:
    answer = await tenant.api.send("POST", V1 + path, body)
    assert 400 <= answer.status < 500, answer
    answer.problem(answer.status)


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b'{"name": "\xff"}', b"", b"null", b'{"name": NaN}', b"[" * 5000])
async def test_a_body_that_is_no_json_is_refused(tenant: Tenant, raw: bytes) -> None:
    for path in ("/customers", "/plans", "/subscriptions/bulk", "/payments", "/billing-runs"):
        answer = await tenant.api.send("POST", V1 + path, raw=raw)
        assert 400 <= answer.status < 500, (path, answer)
        answer.problem(answer.status)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "text/csv", 422),
        (b"external_reference\nx\n", "text/csv", 422),
        (b"name,name\nx,y\n", "text/csv", 422),
        (b'name\n"never ends\n', "text/csv", 422),
        (b"name\n\xff\xfe\n", "text/csv", 400),
        (b"name\na\x00b\n", "text/csv", 400),
        (b"name\n" + b"x" * 70_000, "text/csv", 413),
        (b"{}", "application/json", 415),
    ],
)
async def test_a_broken_file_is_refused_whole(tenant: Tenant, content: bytes, kind: str, status: int) -> None:
    before = (await tenant.api.send("GET", f"{V1}/customers/imports", params={"limit": "200"})).expect(200)
    path = f"{V1}/customers/imports"
    (await tenant.api.send("POST", path, raw=content, headers={"Content-Type": kind})).problem(status)
    after = (await tenant.api.send("GET", f"{V1}/customers/imports", params={"limit": "200"})).expect(200)
    assert after == before


@pytest.mark.parametrize(
    "params",
    [
        {"cursor": "???"},
        {"cursor": "W10"},
        {"cursor": "eyJhIjoxfQ"},
        {"cursor": "x" * 600},
        {"limit": "0"},
        {"limit": "100000000000000000000"},
        {"status": "dead"},
        {"q": "\u0000"},
    ],
)
async def test_wrong_parameters_are_refused(tenant: Tenant, params: dict[str, str]) -> None:
    answer = await tenant.api.send("GET", f"{V1}/customers", params=params)
    assert answer.status in (400, 422)
    answer.problem(answer.status)


@pytest.mark.parametrize(
    "changes",
    [
        {"slug": "UPPER"},
        {"slug": "a'; drop table tenant; --"},
        {"currency": "XXX"},
        {"country": "usa"},
        {"time_zone": "Mars/Olympus"},
        {"contact_email": "nobody"},
        {"name": "a\u0000"},
        {"plan": None},
    ],
)
async def test_a_wrong_tenant_is_refused(platform: Api, changes: dict[str, Any]) -> None:
    (await platform.send("POST", f"{V1}/tenants", registration(**changes))).problem(422)


async def test_unknown_ids_are_not_found_on_every_operation(tenant: Tenant, platform: Api) -> None:
    for method, template in tenant.api.operations:
        if "{" not in template:
            continue
        platforms = ("tenants", "deployments", "deployment-templates", "dead-letters", "sign-ups")
        of_the_platform = any(word in template for word in platforms)
        api = platform if of_the_platform else tenant.api
        unknown = str(2**62) if "dead-letters" in template else str(uuid4())
        path = re.sub(r"{\w+}", unknown, template)
        body = {} if method in ("PATCH", "POST") else None
        (await api.send(method, path, body, headers={"If-Match": "*"})).problem(404)
        if "{category}" in template:
            continue  # it is a name, and any could be one
        garbage = re.sub(r"{\w+}", "not-an-id", template)
        (await api.send(method, garbage, body, headers={"If-Match": "*"})).problem(422)


async def test_wrong_credentials_and_tokens_are_refused(public: Api, platform: Api, tenant: Tenant) -> None:
    for form in ({"username": "a@b.example", "password": "x"}, {"username": "admin@dotmac.example", "password": "x"}):
        (await public.send("POST", f"{V1}/auth/token", form=form)).problem(401, "invalid-credentials")
    (await public.send("POST", f"{V1}/auth/token", form={})).problem(422)
    body = {"token": "t" * 43, "password": "a long enough one"}
    (await public.send("POST", f"{V1}/auth/invitations/accept", body)).problem(400, "invalid-invitation")
    (await public.send("GET", f"{V1}/customers")).problem(401, "missing-token")
    assert tenant.api.token is not None
    head, payload, signature = tenant.api.token.split(".")
    for token in ("x", "a.b.c", f"{head}.{payload}.{signature[:-4]}AAAA", f"{head}.{payload}."):
        (await public.as_(token).send("GET", f"{V1}/customers")).problem(401, "invalid-token")
    (await tenant.api.send("GET", f"{V1}/tenants")).problem(403, "missing-scope")
    (await platform.send("GET", f"{V1}/customers")).problem(403, "missing-scope")
    (await tenant.api.send("GET", f"{V1}/nothing")).problem(404)
    (await tenant.api.send("GET", f"{V1}/customersx")).problem(404)


async def test_a_large_body_is_refused(tenant: Tenant) -> None:
    (await tenant.api.send("POST", f"{V1}/customers", raw=b" " * (3 * 1024 * 1024))).problem(413, "body-too-large")
