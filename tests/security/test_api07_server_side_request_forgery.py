"""API7: nothing that a client sends makes a service call anywhere: no host but those of the settings is ever asked."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from aiohttp import web

from chassis.security.tokens import InvalidToken, SigningKeysUnavailable, TokenIssuer, TokenVerifier
from deploy.stack.processes import free_port
from deploy.stack.stack import Stack
from tests.api import Api
from tests.conftest import Tenant, registration
from tests.security.test_api02_broken_authentication import Forger
from tests.security.wire import exchange, request

V1 = "/api/v1"


@dataclass
class Canary:
    """A server that nobody should call."""

    url: str
    calls: list[str] = field(default_factory=list)

    @property
    def place(self) -> str:
        return self.url.removeprefix("http://")


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    port = free_port()
    bird = Canary(f"http://127.0.0.1:{port}")

    async def sing(asked: web.Request) -> web.Response:
        bird.calls.append(f"{asked.method} {asked.rel_url}")
        return web.json_response({"keys": []})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", sing)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield bird
    await runner.cleanup()


async def test_the_canary_sings(canary: Canary, public: Api) -> None:
    async with public.http.get(f"{canary.url}/alive") as answer:
        assert answer.status == 200
    assert canary.calls == ["GET /alive"]


async def test_keys_that_a_token_names_are_not_fetched(
    stack: Stack, tenant: Tenant, public: Api, canary: Canary
) -> None:
    forger = Forger(stack, tenant, (await public.send("GET", "/.well-known/jwks.json")).expect(200))
    place = f"{canary.url}/keys.json"
    for header in ({"jku": place}, {"x5u": place}, {"kid": place}, {"jku": place, "kid": "mine"}):
        for place_ in ("gateway", "customer", "billing"):
            token = forger.by_another_key(**header)
            reply = await exchange(stack.url(place_), request("GET", f"{V1}/customers", token))
            assert reply.status in (401, 404), reply
    forged = forger.signed({}, iss=canary.url)
    (await tenant.api.as_(forged).send("GET", f"{V1}/customers")).problem(401)
    assert canary.calls == []


async def test_no_address_in_a_request_leads_the_gateway_elsewhere(
    stack: Stack, tenant: Tenant, canary: Canary
) -> None:
    token, place = tenant.api.token, canary.place
    attempts = [
        request("GET", f"{V1}/customers", token, Host=place),
        request("GET", f"http://{place}{V1}/customers", token),
        request("GET", f"{V1}/customers", token, X_Forwarded_Host=place),
        request("GET", f"{V1}/customers", token, Forwarded=f"host={place};for={place}"),
        request("GET", f"{V1}/customers@{place}/", token),
        request("GET", f"//{place}{V1}/customers", token),
        request("GET", f"{V1}/customers/http://{place}/", token),
        request("GET", f"{V1}/customers/http:%2f%2f{place}", token),
        request("GET", f"{V1}/customers?url=http://{place}&callback=http://{place}", token),
        request("GET", f"@{place}{V1}/customers", token),
        request("GET", f"{V1}/customers", token, Referer=canary.url, Origin=canary.url),
        request(
            "POST", f"{V1}/customers/imports", token, f"http://{place}/file".encode(), Content_Type="text/uri-list"
        ),
        head_connect(place),
    ]
    for octets in attempts:
        await exchange(stack.url("gateway"), octets)
    assert canary.calls == []


def head_connect(place: str) -> bytes:
    return f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()


async def test_no_address_in_data_is_called(tenant: Tenant, platform: Api, canary: Canary) -> None:
    url = canary.url
    body = {"name": url, "external_reference": url, "city": url, "phone": url, "email": "a@b.example"}
    (await tenant.api.send("POST", f"{V1}/customers", body)).expect(201)
    rows = f"name,city\n{url},{url}\n=HYPERLINK({url}),x\n"
    headers = {"Content-Type": "text/csv"}
    (await tenant.api.send("POST", f"{V1}/customers/imports", raw=rows.encode(), headers=headers)).expect(202)
    created = (await platform.send("POST", f"{V1}/tenants", registration(name=url))).expect(201)
    (await platform.send("POST", f"{V1}/tenants/{created['id']}/deployments")).expect(202)

    async def ended() -> bool:
        state = (await platform.send("GET", f"{V1}/tenants/{created['id']}")).expect(200)["status"]
        return state != "deploying"

    async with asyncio.timeout(60):
        while not await ended():
            await asyncio.sleep(0.2)
    assert canary.calls == []


async def test_the_fetch_of_the_keys_follows_no_redirect(canary: Canary) -> None:
    port = free_port()

    async def elsewhere(_request: web.Request) -> web.Response:
        raise web.HTTPFound(f"{canary.url}/keys.json")

    app = web.Application()
    app.router.add_get("/keys.json", elsewhere)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    token = TokenIssuer("s" * 32).issue("x", uuid4(), ["customers:read"])
    try:
        with pytest.raises((InvalidToken, SigningKeysUnavailable)):
            await TokenVerifier(f"http://127.0.0.1:{port}/keys.json").verify(token)
    finally:
        await runner.cleanup()
    assert canary.calls == []
