"""A token that was revoked is refused at the gateway and at every service, and no other is; also after a restart."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from prometheus_client import REGISTRY

from chassis.messaging import broker
from chassis.security.following import Follower
from chassis.security.revocations import Revocations
from chassis.settings import Settings
from deploy.roles import SERVICES
from deploy.stack.folder import Folder
from deploy.stack.processes import Child, free_port
from deploy.stack.stack import Stack
from deploy.stack.tansu import Tansu
from dotmac_contracts.envelope import Envelope, encode
from dotmac_contracts.tenant import TokensRevoked
from tests.api import Answer, Api, eventually
from tests.conftest import PASSWORD, Tenant, sign_in

V1 = "/api/v1"
# One operation of each service that a tenant's administrator may read.
READ = {
    "gateway": "/customers",
    "tenant": "/users",
    "customer": "/customers",
    "billing": "/plans",
    "provisioning": "/deployments",
}
SignIn = Callable[[], Awaitable[Api]]


@pytest.fixture
def signed_in(public: Api, isp: Tenant) -> SignIn:
    async def again() -> Api:
        return public.as_(await sign_in(public, isp.administrator, PASSWORD, isp.slug))

    return again


async def believed(stack: Stack, api: Api) -> set[str]:
    """Return where the token is believed; everywhere else it has to be refused as one that is not valid."""
    where = set()
    for place, answer in (await _asked(stack, api)).items():
        if answer.status == 200:
            where.add(place)
        else:
            answer.problem(401, "invalid-token")
    return where


async def ended(stack: Stack, api: Api) -> None:
    """Return once the token is believed nowhere; until then it may be believed, and not allow to read everything."""

    async def nowhere() -> bool:
        answers = (await _asked(stack, api)).values()
        if any(answer.status in (200, 403) for answer in answers):
            return False
        for answer in answers:
            answer.problem(401, "invalid-token")
        return True

    await eventually(nowhere)


async def _asked(stack: Stack, api: Api) -> dict[str, Answer]:
    return {place: await replace(api, url=stack.url(place)).send("GET", V1 + path) for place, path in READ.items()}


async def user_of(api: Api) -> str:
    (user,) = (await api.send("GET", f"{V1}/users")).expect(200)["items"]
    found: str = user["id"]
    return found


async def published(stack: Stack, user: str) -> list[dict[str, Any]]:
    """Return what was told of a user's tokens, once nothing waits to be."""
    connection = await asyncpg.connect(stack.database_url("tenant", "relay"))
    try:

        async def sent() -> bool:
            count = await connection.fetchval("select count(*) from outbox where topic = 'tenant.session.v1'")
            return bool(count == 0)

        await eventually(sent)
        rows = await connection.fetch(
            "select value from journal where topic = 'tenant.session.v1' and key = $1 order by \"offset\"", user
        )
    finally:
        await connection.close()
    return [json.loads(row["value"]) for row in rows]


async def test_logging_out_ends_this_token_everywhere_and_no_other(stack: Stack, signed_in: SignIn) -> None:
    one, another = await signed_in(), await signed_in()
    for api in (one, another):
        assert await believed(stack, api) == set(READ)
    (await one.send("POST", f"{V1}/auth/logout")).expect(204)
    await ended(stack, one)
    assert await believed(stack, another) == set(READ)
    (await one.send("POST", f"{V1}/auth/logout")).problem(401, "invalid-token")
    assert await believed(stack, one) == set()


async def test_a_token_is_revoked_once_however_often_it_is_asked_for(stack: Stack, signed_in: SignIn) -> None:
    api = await signed_in()
    user = await user_of(api)
    before = len(await published(stack, user))
    answers = await asyncio.gather(*(api.send("POST", f"{V1}/auth/logout") for _ in range(8)))
    statuses = Counter(answer.status for answer in answers)
    assert statuses[204] > 0
    assert statuses.keys() <= {204, 401}  # the event may have come before the last of them
    await ended(stack, api)
    events = await published(stack, user)
    assert len(events) == before + 1
    assert events[-1].keys() == {"tenant_id", "user_id", "session_id", "expires_at", "reason"}
    assert events[-1]["reason"] == "signed-out"


async def test_all_tokens_of_a_user_end_and_a_new_one_is_good(stack: Stack, signed_in: SignIn) -> None:
    tokens = [await signed_in() for _ in range(3)]
    for api in tokens:
        assert await believed(stack, api) == set(READ)
    user = await user_of(tokens[0])
    path, key = f"{V1}/users/{user}/revocations", {"Idempotency-Key": uuid4().hex}
    before = len(await published(stack, user))
    answer = await tokens[0].send("POST", path, headers=key)
    revocation = answer.expect(201)
    assert revocation["user_id"] == user
    assert abs((datetime.now(UTC) - datetime.fromisoformat(revocation["issued_before"])).total_seconds()) < 60
    new = await signed_in()
    for api in tokens:
        await ended(stack, api)
    assert await believed(stack, new) == set(READ)
    again = await new.send("POST", path, headers=key)
    assert (again.expect(201), again.headers["Idempotency-Replayed"]) == (revocation, "true")
    assert await believed(stack, new) == set(READ)
    assert len(await published(stack, user)) == before + 2  # the revocation, once, and the new sign-in


async def test_the_platform_finds_and_ends_the_tokens_of_any_user(
    stack: Stack, platform: Api, isp: Tenant, signed_in: SignIn
) -> None:
    api = await signed_in()
    assert await believed(stack, api) == set(READ)
    page = (await platform.send("GET", f"{V1}/users", params={"tenant_id": isp.id})).expect(200)
    (user,) = page["items"]
    assert (user["email"], user["tenant_id"], user["roles"]) == (isp.administrator, isp.id, ["tenant_admin"])
    (await platform.send("POST", f"{V1}/users/{user['id']}/revocations")).expect(201)
    await ended(stack, api)
    assert (await platform.send("GET", f"{V1}/users", params={"limit": "1"})).expect(200)["next_cursor"]


async def test_nobody_ends_the_tokens_of_anothers_user(
    stack: Stack, platform: Api, other: Tenant, signed_in: SignIn
) -> None:
    api = await signed_in()
    user = await user_of(api)
    before = await published(stack, user)
    (await other.api.send("POST", f"{V1}/users/{user}/revocations")).problem(404)
    tenant = (await api.send("GET", f"{V1}/users")).expect(200)["items"][0]["tenant_id"]
    theirs = await other.api.send("GET", f"{V1}/users", params={"tenant_id": tenant})
    assert theirs.expect(200)["items"] == []
    page = (await platform.send("GET", f"{V1}/users")).expect(200)
    administrator = next(item["id"] for item in page["items"] if item["email"] == stack.administrator[0])
    (await api.send("POST", f"{V1}/users/{administrator}/revocations")).problem(404)
    assert await published(stack, user) == before
    assert await believed(stack, api) == set(READ)


async def test_what_is_revoked_is_known_after_a_restart_before_the_first_request(
    stack: Stack, signed_in: SignIn
) -> None:
    one, another = await signed_in(), await signed_in()
    (await one.send("POST", f"{V1}/auth/logout")).expect(204)
    await ended(stack, one)
    for name in (*SERVICES, "gateway"):
        await stack.children[name].stop()
        await stack.start_service(name)
    assert await believed(stack, one) == set()
    assert await believed(stack, another) == set(READ)


async def test_a_gateway_goes_on_without_the_broker_and_says_so(
    stack: Stack, tenant: Tenant, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    port = free_port()
    addresses = {f"{service.upper()}_URL": stack.url(service) for service in SERVICES}
    settings = {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}", "PORT": str(port), **addresses}
    settings["JWKS_URL"] = f"{stack.url('tenant')}/.well-known/jwks.json"
    environment = {"PATH": os.environ["PATH"], **settings}
    child = Child("gateway", [sys.executable, "-m", "gateway"], environment, tmp_path / "gateway.log")
    api = replace(tenant.api, url=f"http://127.0.0.1:{port}")

    async def answered() -> bool:
        child.raise_if_dead()
        try:
            return (await api.send("GET", f"{V1}/customers")).status == 200
        except aiohttp.ClientError:
            return False

    await child.start()
    try:
        await eventually(answered)
        async with http.get(f"{api.url}/metrics") as answer:
            assert 'dotmac_revocations_current{service="gateway"} 0.0' in await answer.text()
        assert "revocations_not_known" in child.log.read_text()
    finally:
        await child.stop()
    for name in ("gateway", *SERVICES):
        async with http.get(f"{stack.url(name)}/metrics") as answer:
            assert f'dotmac_revocations_current{{service="{name}"}} 1.0' in await answer.text()


async def tell(settings: Settings, revocations: int) -> None:
    """Publish so many revocations."""
    producer = broker.producer(settings)
    await producer.start()
    try:
        for _ in range(revocations):
            now = datetime.now(UTC)
            event = TokensRevoked(user_id=uuid4(), tenant_id=uuid4(), issued_before=now)
            envelope = Envelope(uuid4(), "/services/tenant", event.TYPE, now, event.key, event.tenant_id, 1)
            record = encode(event, envelope)
            await producer.send_and_wait(record.topic, record.value, record.key, headers=record.headers)
    finally:
        await producer.stop()


async def test_a_broker_that_goes_is_noticed_and_one_that_comes_back_without_its_records_is_read_anew(
    tmp_path: Path,
) -> None:
    folder = Folder(tmp_path)
    await folder.claim(lambda _message: None)
    memory = Tansu(folder, free_port())  # keeps nothing over a restart
    settings = Settings(kafka_bootstrap_servers=memory.bootstrap_servers, kafka_idempotence=False)
    known = Revocations()
    following = Follower("a test", settings, known)

    async def follows() -> bool:
        return REGISTRY.get_sample_value("dotmac_revocations_current", {"service": "a test"}) == 1

    async def is_lost() -> bool:
        return not await follows()

    async def knows(revocations: int) -> bool:
        return known.version >= revocations

    try:
        await memory.start()
        await broker.ensure_topics(memory.bootstrap_servers)
        await tell(settings, 20)
        await following.start()
        assert known.version == 20  # all of them, before the first request
        assert await follows()
        assert memory.child is not None
        await memory.child.stop()
        await eventually(is_lost)
        await memory.start()
        await broker.ensure_topics(memory.bootstrap_servers)
        await eventually(follows)
        await tell(settings, 6)
        await eventually(lambda: knows(26))
    finally:
        await following.stop()
        await memory.stop()
        folder.release()
