"""One real platform for the whole run: Kafka, PostgreSQL, four services and the gateway."""

import secrets
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cli.client import API
from deploy.stack.stack import Stack
from tests.api import Answer, Api, eventually

EXERCISED: set[tuple[str, str]] = set()
OPERATIONS: dict[tuple[str, str], str] = {}


@pytest.fixture(scope="session")
async def stack() -> AsyncIterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="dotmac-test-") as folder:
        running = Stack(Path(folder), any_ports=True)
        async with running:
            async with aiohttp.ClientSession() as session, session.get(f"{running.gateway_url}/openapi.json") as answer:
                document = await answer.json()
            for path, item in document["paths"].items():
                for method, operation in item.items():
                    OPERATIONS[(method.upper(), path)] = operation.get("operationId", "")
            yield running
        if running._postgres:
            running._postgres.remove()


@pytest.fixture(scope="session")
async def http(stack: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(scope="session")
async def public(stack: Stack, http: aiohttp.ClientSession) -> Api:
    """The API without a token."""
    return Api(stack.gateway_url, http, None, EXERCISED, OPERATIONS)


@pytest.fixture(scope="session")
async def platform(stack: Stack, public: Api) -> Api:
    """The API as the platform's administrator."""
    name, password = stack.administrator
    return public.as_(await sign_in(public, name, password))


async def sign_in(public: Api, name: str, password: str, tenant: str | None = None) -> str:
    form = {"username": name, "password": password, **({"tenant": tenant} if tenant else {})}
    answer = await public.send("POST", f"{API}/auth/token", form=form)
    assert answer.status == 200, answer
    token: str = answer.body["access_token"]
    return token


@dataclass(frozen=True)
class Tenant:
    """A deployed tenant, and the API as its administrator."""

    id: str
    slug: str
    api: Api
    deployment: dict[str, Any]


def registration(**changes: Any) -> dict[str, Any]:
    mark = secrets.token_hex(5)
    return {
        "name": f"ISP {mark}",
        "slug": f"isp-{mark}",
        "contact_email": f"admin@{mark}.example",
        "plan": "standard",
        "currency": "USD",
        "country": "US",
        "time_zone": "America/New_York",
        **changes,
    }


async def deploy(public: Api, platform: Api) -> Tenant:
    """Register a tenant, deploy it, and accept its administrator's invitation."""
    data = registration()
    tenant = (await platform.send("POST", f"{API}/tenants", data)).expect(201)
    accepted = (await platform.send("POST", f"{API}/tenants/{tenant['id']}/deployments")).expect(202)

    async def ended() -> Answer | None:
        answer = await platform.send("GET", f"{API}/deployments/{accepted['deployment_id']}")
        return answer if answer.expect(200)["status"] != "running" else None

    deployment = (await eventually(ended)).body
    invitation = (await platform.send("POST", f"{API}/tenants/{tenant['id']}/invitations")).expect(201)
    body = {"token": invitation["token"], "password": "correct horse battery"}
    (await public.send("POST", f"{API}/auth/invitations/accept", body)).expect(204)
    token = await sign_in(public, invitation["email"], body["password"], data["slug"])
    return Tenant(tenant["id"], data["slug"], public.as_(token), deployment)


@pytest.fixture(scope="session")
async def tenant(public: Api, platform: Api) -> Tenant:
    return await deploy(public, platform)


@pytest.fixture(scope="session")
async def other(public: Api, platform: Api) -> Tenant:
    return await deploy(public, platform)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A full run that leaves an operation of the OpenAPI document unexercised fails."""
    whole = not session.config.option.keyword and session.config.args in (["tests"], [str(session.config.rootpath)])
    missed = sorted(OPERATIONS.keys() - EXERCISED)
    if whole and missed and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_line("operations that no test exercised successfully:")
        for method, path in missed:
            reporter.write_line(f"  {method} {path}")
