"""API5: every operation asks for its own scope, at the gateway and at the service itself."""

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from chassis.ids import PLATFORM_TENANT
from chassis.security.scopes import PLATFORM_ROLES, TENANT_ROLES
from chassis.security.tokens import TokenIssuer
from deploy.stack.stack import SERVICES, Stack
from gateway.routes import service_for
from tests.api import Api
from tests.conftest import Tenant
from tests.deployments import past_security
from tests.security.test_api03_broken_object_property_level_authorization import document

V1 = "/api/v1"
PUBLIC = {
    ("POST", f"{V1}/auth/token"),
    ("POST", f"{V1}/auth/invitations/accept"),
    ("POST", f"{V1}/auth/sign-ups"),
    ("POST", f"{V1}/auth/password-resets"),
    ("POST", f"{V1}/auth/password-resets/accept"),
    ("GET", "/.well-known/jwks.json"),
}
# Of one's own, whoever one is; the tests below keep their tokens.
ANY_TOKEN = {
    ("POST", f"{V1}/auth/logout"),
    ("POST", f"{V1}/auth/password"),
    ("GET", f"{V1}/auth/second-factor"),
    ("POST", f"{V1}/auth/second-factor"),
    ("POST", f"{V1}/auth/second-factor/confirm"),
    ("POST", f"{V1}/auth/second-factor/recovery-codes"),
    ("POST", f"{V1}/auth/second-factor/remove"),
    ("GET", f"{V1}/sessions"),
    ("DELETE", f"{V1}/sessions/{{session_id}}"),
}
EVERY_SCOPE = frozenset[str]().union(*PLATFORM_ROLES.values(), *TENANT_ROLES.values())
OF_BOTH = tuple(
    f"{V1}/{name}"
    for name in (
        *("users", "invitations", "roles", "built-in-roles", "api-keys", "service-accounts", "audit-entries"),
        "settings",
        *("billing-workspace", "billing-accounts", "plans", "subscriptions", "billing-runs", "invoices", "payments"),
    )
)


async def guarded(public: Api) -> list[tuple[str, str]]:
    """Return every operation that the document says needs a token with some scope, as method and template."""
    api = await document(public)
    found = [
        (verb.upper(), path)
        for path, item in api["paths"].items()
        for verb, operation in item.items()
        if operation.get("security")
    ]
    stated = {(verb.upper(), path) for path, item in api["paths"].items() for verb in item}
    assert stated - set(found) == PUBLIC
    assert set(found) >= ANY_TOKEN
    return [operation for operation in found if operation not in ANY_TOKEN]


def filled(template: str) -> str:
    return re.sub(r"{\w+}", str(uuid4()), template)


async def attempt(api: Api, method: str, template: str) -> Any:
    body = {} if method in ("POST", "PATCH", "PUT") else None
    return await api.send(method, filled(template), body, headers={"If-Match": "*"})


def token_of(stack: Stack, tenant: str | UUID, scopes: set[str] | frozenset[str]) -> str:
    """Sign as the tenant service does, to try combinations of scopes that no role has."""
    issuer = TokenIssuer(stack.jwt_secret_key)
    return issuer.issue(str(uuid4()), UUID(str(tenant)), scopes, ttl=timedelta(minutes=5))


async def test_without_any_scope_nothing_can_be_done(stack: Stack, public: Api, tenant: Tenant) -> None:
    nobody = token_of(stack, tenant.id, set())
    for method, template in await guarded(public):
        service = service_for(template)
        assert service is not None
        for place in ("gateway", service):
            api = replace(public, url=stack.url(place), token=nobody)
            (await attempt(api, method, template)).problem(403, "missing-scope")


async def test_each_operation_needs_one_scope_and_no_other_will_do(stack: Stack, public: Api, tenant: Tenant) -> None:
    for method, template in await guarded(public):
        allowed = set()
        for scope in EVERY_SCOPE:
            api = replace(public, token=token_of(stack, tenant.id, {scope}))
            answer = await attempt(api, method, template)
            if answer.status != 403:
                allowed.add(scope)
        (scope,) = allowed or {""}
        assert scope, f"no scope alone allows {method} {template}"
        right = "read" if method == "GET" else "write"
        assert scope.endswith(f":{right}"), f"{method} {template} is allowed by {scope}"


async def test_a_role_reaches_its_own_operations_only(public: Api, tenant: Tenant, platform: Api) -> None:
    for method, template in await guarded(public):
        of_the_platform = (
            template.startswith((f"{V1}/tenants", f"{V1}/deploy", f"{V1}/sign-ups")) or "-dead-letters" in template
        )
        readable = template.startswith(f"{V1}/deployments") and method == "GET"
        of_both = template.startswith(OF_BOTH)
        for api, may in ((tenant.api, readable or not of_the_platform), (platform, of_both or of_the_platform)):
            answer = await attempt(api, method, template)
            assert (answer.status == 403) is not may, f"{method} {template}: {answer.status}"


@pytest.mark.parametrize(
    "header",
    [
        {"X-HTTP-Method-Override": "GET"},
        {"X-HTTP-Method": "GET"},
        {"X-Original-URL": f"{V1}/workspace"},
        {"X-Rewrite-URL": f"{V1}/workspace"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"X-Scope": "tenants:read tenants:write"},
        {"X-Roles": "platform_admin"},
        {"Forwarded": "for=127.0.0.1;proto=https;host=localhost"},
    ],
    ids=lambda header: next(iter(header)),
)
async def test_no_header_opens_what_the_token_does_not(tenant: Tenant, header: dict[str, str]) -> None:
    (await tenant.api.send("POST", f"{V1}/tenants", {}, headers=header)).problem(403)
    (await tenant.api.send("GET", f"{V1}/tenants", headers=header)).problem(403)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/Tenants",
        "/API/V1/tenants",
        "/api/v1/tenants.json",
        "/api/v1/tenants;x=1",
        "/api/V1/tenants",
        "/tenants",
    ],
)
async def test_another_spelling_is_another_path(tenant: Tenant, platform: Api, path: str) -> None:
    for api in (tenant.api, platform):
        (await api.send("GET", path)).problem(404)


async def every_tenant(stack: Stack) -> set[str]:
    async with past_security(stack, "tenant") as connection:
        return {str(row["tenant_id"]) for row in await connection.fetch("select tenant_id from tenant")}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_platform_token_is_no_key_to_tenants_data(stack: Stack, public: Api, service: str) -> None:
    """The platform administers tenants, and bills them; it has no place in what these have."""
    token = token_of(stack, PLATFORM_TENANT, EVERY_SCOPE)
    api = replace(public, url=stack.url(service), token=token)
    for path in {"customer": ("/customers", "/customers/imports"), "billing": ("/invoices", "/billing-accounts")}.get(
        service, ()
    ):
        known = await every_tenant(stack)
        found = (await api.send("GET", V1 + path, params={"limit": "200"})).expect(200)["items"]
        # Whom the platform bills are tenants, and nobody's customers.
        billed = {item.get("customer_id") for item in found}
        assert billed <= known
