"""One real platform for the whole run: Kafka, PostgreSQL, the services and the gateway."""

import base64
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import hypothesis
import pytest

from chassis.ids import PLATFORM_TENANT
from chassis.security.tokens import TokenIssuer
from cli.client import API
from deploy.roles import SERVICES
from deploy.stack.processes import own_address
from deploy.stack.stack import Stack, temporary
from tests import servers
from tests.api import Answer, Api, eventually
from tests.chaos.checker import disorder, journals
from tests.collector import Collector, collecting

# A slow machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

CHOSEN = pytest.StashKey[servers.Servers]()
EXERCISED: set[tuple[str, str]] = set()
OPERATIONS: dict[tuple[str, str], str] = {}


@pytest.fixture(scope="session")
def stack_servers(request: pytest.FixtureRequest) -> Iterator[servers.Servers]:
    """The PostgreSQL and Kafka to stand on; which, and why these, stands in the summary."""
    with servers.running() as chosen:
        request.config.stash[CHOSEN] = chosen
        yield chosen


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """What receives the spans of the stack's processes: every request of the run is traced."""
    with collecting() as running:
        yield running


@pytest.fixture(scope="session")
async def stack(stack_servers: servers.Servers, collector: Collector) -> AsyncIterator[Stack]:
    containers = {}
    if servers.why_no_containers() is None:
        # What collects the spans is on the loopback address.
        containers = {"DOTMAC_IMAGE": servers.IMAGE, "DEPLOYMENT_OTLP_ENDPOINT": ""}
        if stack_servers.kafka_for_containers:
            containers["DEPLOYMENT_KAFKA_SERVERS"] = stack_servers.kafka_for_containers
    make = partial(
        Stack,
        replaceable=True,
        any_ports=True,
        environment={
            "OTLP_ENDPOINT": collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            # Nobody waits for hours here; and a lease is over after twice the timeout.
            "WEBHOOK_FIRST_RETRY_SECONDS": "0.2",
            "WEBHOOK_TIMEOUT_SECONDS": "4",
            # Each look asks for every tenant, and tests leave hundreds; and what they plant is to be found by the
            # checker, and not repaired before. Those of drifts have it look often.
            "DEPLOYMENT_RECONCILE_SECONDS": "3600",
            # All tests come from one address.
            "SIGN_UP_RATE_LIMIT": "100000/hour",
            **containers,
        },
        address=own_address() if containers else "",
        postgres_url=stack_servers.postgres_url,
        kafka_servers=stack_servers.kafka,
    )
    async with contextlib.AsyncExitStack() as afterwards, temporary("test", make) as running:
        if containers:
            afterwards.callback(servers.clear_away, running.installation)
        async with aiohttp.ClientSession() as session, session.get(f"{running.gateway_url}/openapi.json") as answer:
            document = await answer.json()
        for path, item in document["paths"].items():
            for method, operation in item.items():
                OPERATIONS[(method.upper(), path)] = operation.get("operationId", "")
        yield running
        published = await journals({name: running.database_url(name, "relay") for name in SERVICES})
        assert [gap for events in published.values() for gap in disorder(events)] == []


@pytest.fixture(scope="session")
async def http(stack: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    # A service that stops waits for its clients to give up their connections, and many tests stop one.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=0.5)) as session:
        yield session


@pytest.fixture(scope="session")
async def public(stack: Stack, http: aiohttp.ClientSession) -> Api:
    """The API without a token."""
    return Api(stack.gateway_url, http, None, EXERCISED, OPERATIONS)


@pytest.fixture(scope="session")
async def platform(stack: Stack, public: Api) -> Api:
    """The API as the platform's administrator."""
    name, password = stack.administrator
    return lasting(stack, public.as_(await sign_in(public, name, password)))


def lasting(stack: Stack, api: Api) -> Api:
    """Return the same API with a token that outlives a run on a slow machine."""
    assert api.token is not None
    payload = api.token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    issuer = TokenIssuer(stack.jwt_secret_key)
    scopes, roles, hours = claims["scope"].split(), claims["roles"], timedelta(hours=3)
    return api.as_(issuer.issue(claims["sub"], UUID(claims["tid"]), scopes, roles, hours))


async def sign_in(public: Api, name: str, password: str, tenant: str | None = None) -> str:
    form = {"username": name, "password": password, **({"tenant": tenant} if tenant else {})}
    answer = await public.send("POST", f"{API}/auth/token", form=form)
    assert answer.status == 200, answer
    token: str = answer.body["access_token"]
    return token


PASSWORD = "correct horse battery"
"""Of every tenant's administrator."""


@dataclass(frozen=True)
class Tenant:
    """A deployed tenant, and the API as its administrator."""

    id: str
    slug: str
    api: Api
    deployment: dict[str, Any]
    administrator: str = ""


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


async def deploy(public: Api, platform: Api, target: str = "pooled", **changes: Any) -> Tenant:
    """Register a tenant, deploy it, and accept its administrator's invitation."""
    data = registration(**changes)
    tenant = (await platform.send("POST", f"{API}/tenants", data)).expect(201)
    order = await platform.send("POST", f"{API}/tenants/{tenant['id']}/deployments", {"target": target})
    accepted = order.expect(202)

    async def ended() -> Answer | None:
        answer = await platform.send("GET", f"{API}/deployments/{accepted['deployment_id']}")
        return answer if answer.expect(200)["status"] in ("succeeded", "failed") else None

    async def known() -> bool:  # to the tenant service: what follows depends on it
        return bool((await platform.send("GET", f"{API}/tenants/{tenant['id']}")).expect(200)["status"] != "deploying")

    deployment = (await eventually(ended, seconds=180)).body  # a tenant's own instances start in seconds at best
    await eventually(known)
    invitation = (await platform.send("POST", f"{API}/tenants/{tenant['id']}/invitations")).expect(201)
    body = {"token": invitation["token"], "password": PASSWORD}
    (await public.send("POST", f"{API}/auth/invitations/accept", body)).expect(204)
    token = await sign_in(public, invitation["email"], body["password"], data["slug"])
    return Tenant(tenant["id"], data["slug"], public.as_(token), deployment, invitation["email"])


@pytest.fixture(scope="session")
async def tenant(stack: Stack, public: Api, platform: Api) -> Tenant:
    deployed = await deploy(public, platform)
    return replace(deployed, api=lasting(stack, deployed.api))


@pytest.fixture(scope="session")
async def other(stack: Stack, public: Api, platform: Api) -> Tenant:
    deployed = await deploy(public, platform)
    return replace(deployed, api=lasting(stack, deployed.api))


@pytest.fixture(scope="module")
async def isp(public: Api, platform: Api) -> Tenant:
    """A tenant of a test file's own: what is done to it, or to its users, is not to reach the others'."""
    return await deploy(public, platform)


@pytest.fixture
async def database(stack: Stack) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """The tenant service's database, seen as the platform does."""
    connection = await asyncpg.connect(stack.database_url("tenant", "api"))
    await connection.execute(f"set app.tenant_id = '{PLATFORM_TENANT}'")
    try:
        yield connection
    finally:
        await connection.close()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Containers that were asked for and can't be had end the run at once, rather than test by test."""
    if servers.wanted() == "testcontainers" and (reason := servers.why_no_engine() or servers.why_no_images()):
        pytest.exit(f"{servers.SETTING}=testcontainers, but {reason}", returncode=pytest.ExitCode.USAGE_ERROR)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On servers that were asked for, leave out the tests of integration and chaos that start servers of their own."""
    if servers.wanted() in (None, "local"):
        return
    those = [item for item in items if {"integration", "chaos"} & {*item.path.parts}]
    own = [item for item in those if "stack_servers" not in _fixtures(item)]
    config.hook.pytest_deselected(items=own)
    items[:] = [item for item in items if item not in own]


def _fixtures(item: pytest.Item) -> list[str]:
    names: list[str] = getattr(item, "fixturenames", [])  # all of them, those of fixtures as well
    return names


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which servers the integration tests ran on."""
    chosen = config.stash.get(CHOSEN, None)
    if chosen:
        terminalreporter.write_line(f"PostgreSQL and Kafka: {chosen.provider} ({chosen.reason})")


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
