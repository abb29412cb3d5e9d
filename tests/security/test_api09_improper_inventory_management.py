"""API9: every route that exists is in the one document, or is listed here as internal; and no other is reachable."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import yaml
from fastapi import APIRouter
from fastapi.routing import APIRoute

from chassis.http import dead_letters, health
from chassis.service import Microservice
from deploy.stack.stack import SERVICES, Stack
from dotmac_contracts.topics import ALL
from gateway.routes import PREFIXES, PUBLIC, service_for
from tests.api import Api
from tests.conftest import Tenant
from tests.security.test_api03_broken_object_property_level_authorization import document
from tests.security.wire import exchange, request

V1 = "/api/v1"
# For the platform's own eyes: what watches a process asks for them there, and the gateway passes none of them on.
INTERNAL = {"/health/live", "/health/ready", "/metrics", "/openapi.json"}
GATEWAYS_OWN = {
    "/",
    "/docs",
    "/docs/events",
    "/openapi.json",
    "/asyncapi.yaml",
    "/health/live",
    "/health/ready",
    "/metrics",
}


def microservice(service: str) -> Microservice:
    found: Microservice = import_module(f"services.{service}.app").MICROSERVICE
    return found


def routers(service: str) -> list[APIRouter]:
    """Return those of a service's own, and those that each service has."""
    return [*microservice(service).routers, dead_letters.router(service)]


def routes(router: APIRouter) -> set[tuple[str, str]]:
    return {
        (method, route.path_format)
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }


def stated(api: dict[str, Any]) -> set[tuple[str, str]]:
    return {(verb.upper(), path) for path, item in api["paths"].items() for verb in item}


async def test_the_document_has_every_route_and_no_other(public: Api) -> None:
    made = {route for service in SERVICES for router in routers(service) for route in routes(router)}
    assert made == stated(await document(public))
    assert {path for _, path in routes(health.router)} <= INTERNAL


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_has_no_route_that_its_document_hides(stack: Stack, public: Api, service: str) -> None:
    api = (await replace(public, url=stack.url(service)).send("GET", "/openapi.json")).expect(200)
    made = {route for router in routers(service) for route in routes(router)}
    assert stated(api) == made
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect", "/debug", "/admin", "/.git/config", "/.env"):
        (await replace(public, url=stack.url(service)).send("GET", path)).problem(404)


async def test_each_route_belongs_to_the_service_that_the_gateway_asks(public: Api) -> None:
    of = {path: service for service in SERVICES for router in routers(service) for _, path in routes(router)}
    for path, service in of.items():
        assert service_for(path) == service, path
    for prefix in PREFIXES:
        assert any(path.startswith(prefix) for path in of), f"the gateway passes {prefix} on, and nothing is there"
    assert of.keys() >= PUBLIC


async def test_every_operation_is_described(public: Api) -> None:
    api = await document(public)
    assert api["info"]["version"]
    seen = set()
    for path, item in api["paths"].items():
        assert path.startswith((f"{V1}/", "/.well-known/")), f"{path} has no version"
        for verb, operation in item.items():
            where = f"{verb} {path}"
            assert operation["operationId"] not in seen, where
            seen.add(operation["operationId"])
            assert operation["summary"], where
            assert operation["description"], where
            assert operation["tags"], where
            assert not operation.get("deprecated"), f"{where} is deprecated: say until when, and take it out of here"
            success = [status for status in operation["responses"] if status.startswith("2")]
            if "text/event-stream" in operation["responses"].get("200", {}).get("content", {}):
                success = [status for status in success if status != "204"]  # which tells a reader that it has ended
            assert len(success) == 1, where
            assert "default" not in operation["responses"], where


@pytest.mark.parametrize("path", sorted(INTERNAL - GATEWAYS_OWN | {"/metrics", "/openapi.json", "/health/ready"}))
async def test_what_is_internal_to_a_service_is_not_reached_through_the_gateway(
    stack: Stack, tenant: Tenant, path: str
) -> None:
    for prefix in PREFIXES:
        for way in (prefix.rstrip("/") + path, f"{prefix.rstrip('/')}/..{path}", f"{prefix.rstrip('/')}/%2e%2e{path}"):
            reply = await exchange(stack.url("gateway"), request("GET", way, tenant.api.token))
            assert reply.status in (400, 403, 404, 405, 422), f"{way}: {reply}"


@pytest.mark.parametrize(
    "path",
    ["/api", "/api/v0/customers", "/api/v2/customers", "/api/v1beta/customers", "/v1/customers", "/api/v1", "/graphql",
     "/actuator", "/swagger.json", "/swagger-ui", "/redoc", "/admin", "/console", "/.env", "/.git/HEAD",
     "/server-status"],
)  # fmt: skip
async def test_no_other_version_and_no_forgotten_page_is_there(tenant: Tenant, path: str) -> None:
    (await tenant.api.send("GET", path)).problem(404)


async def test_the_gateways_own_pages_are_those_that_are_known(public: Api) -> None:
    for path in GATEWAYS_OWN:
        assert (await public.send("GET", path)).status == 200, path
        assert (await public.send("POST", path, {})).status in (404, 405), path


async def test_events_are_in_the_inventory_as_well(public: Api) -> None:
    found = yaml.safe_load((await public.send("GET", "/asyncapi.yaml")).body)
    assert {channel["address"] for channel in found["channels"].values()} == {topic.name for topic in ALL}
