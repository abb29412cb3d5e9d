"""Webhooks: what happens is delivered, in order, to a receiver that fails, is slow, is away and comes back."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiohttp import web
from standardwebhooks import Webhook

from chassis.security.tokens import TokenIssuer
from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy, lasting
from tests.feed import everything
from tests.integration.test_feed import created, in_order
from tests.receiver import Receiver, accepting, answering, never, receiver

V1 = "/api/v1"
ENDPOINTS = f"{V1}/webhook-endpoints"
DELIVERIES = f"{V1}/webhook-deliveries"
CREATED = "dotmac.customer.CustomerCreated"
INVOICED = "dotmac.billing.InvoiceIssued"
DISABLED = "dotmac.integration.WebhookEndpointDisabled"


@pytest.fixture(scope="module")
async def isp(stack: Stack, public: Api, platform: Api) -> Tenant:
    deployed = await deploy(public, platform)
    return Tenant(deployed.id, deployed.slug, lasting(stack, deployed.api), deployed.deployment)


@pytest.fixture
async def hook(isp: Tenant) -> AsyncIterator[Receiver]:
    """A receiver of the events of new customers; its endpoint is removed after the test."""
    async with receiver() as running:
        endpoint = await registered(isp.api, running, [CREATED])
        yield running
        await isp.api.send("DELETE", f"{ENDPOINTS}/{endpoint['id']}")


async def registered(api: Api, hook: Receiver, types: list[str], **more: Any) -> dict[str, Any]:
    answer = await api.send("POST", ENDPOINTS, {"url": hook.url, "event_types": types, **more})
    endpoint: dict[str, Any] = answer.expect(201)
    hook.secret = endpoint["secret"]
    return endpoint


async def endpoint_of(api: Api, hook: Receiver) -> dict[str, Any]:
    items = (await api.send("GET", ENDPOINTS)).expect(200)["items"]
    (found,) = [item for item in items if item["url"] == hook.url]
    return dict(found)


async def deliveries(api: Api, hook: Receiver, **params: str) -> list[dict[str, Any]]:
    endpoint = await endpoint_of(api, hook)
    asked = {"endpoint_id": endpoint["id"], "limit": "200", **params}
    items: list[dict[str, Any]] = (await api.send("GET", DELIVERIES, params=asked)).expect(200)["items"]
    return items


async def told(hook: Receiver, customers: list[str]) -> None:
    async def all_of_them() -> bool:
        return {*customers} <= subjects(hook)

    await eventually(all_of_them)


async def in_feed_order(api: Api, hook: Receiver) -> None:
    """Assert that what was accepted came once, and as the feed has it."""
    feed = await everything(api, lambda it: {*hook.ids()} <= {*it.ids()}, type=CREATED)
    assert hook.ids() == [event_id for event_id in feed.ids() if event_id in hook.ids()]


def subjects(hook: Receiver) -> set[str]:
    return {event["subject"] for event in hook.events}


async def test_an_endpoint_is_created_read_changed_and_deleted(isp: Tenant, other: Tenant) -> None:
    body = {"url": "https://hooks.acme.example/x?token=1", "event_types": [CREATED], "description": "Accounting"}
    key = {"Idempotency-Key": uuid4().hex}
    first = await isp.api.send("POST", ENDPOINTS, body, headers=key)
    endpoint = first.expect(201)
    assert first.headers["Location"] == f"{ENDPOINTS}/{endpoint['id']}"
    assert endpoint["secret"].startswith("whsec_")
    again = await isp.api.send("POST", ENDPOINTS, body, headers=key)
    assert (again.expect(201), again.headers["Idempotency-Replayed"]) == (endpoint, "true")
    path = f"{ENDPOINTS}/{endpoint['id']}"
    read = await isp.api.send("GET", path)
    assert {**read.expect(200), "secret": endpoint["secret"]} == endpoint
    assert read.headers["ETag"] == '"1"'
    assert endpoint["id"] in {item["id"] for item in (await isp.api.send("GET", ENDPOINTS)).expect(200)["items"]}
    assert "secret" not in str((await isp.api.send("GET", ENDPOINTS)).body)
    (await isp.api.send("PATCH", path, {"enabled": False})).problem(428)
    (await isp.api.send("PATCH", path, {"enabled": False}, headers={"If-Match": '"7"'})).problem(412)
    changed = await isp.api.send("PATCH", path, {"enabled": False, "description": None}, headers={"If-Match": '"1"'})
    expected = {"enabled": False, "description": None, "version": 2, "updated_at": changed.body["updated_at"]}
    assert changed.expect(200) == {**read.body, **expected}
    assert changed.headers["ETag"] == '"2"'
    for method, place, body in (
        ("GET", path, None),
        ("PATCH", path, {"enabled": True}),
        ("DELETE", path, None),
        ("POST", f"{path}/rotate-secret", {}),
        ("POST", f"{path}/replay", {"since": "2026-01-01T00:00:00Z"}),
    ):
        (await other.api.send(method, place, body, headers={"If-Match": "*"})).problem(404)
    assert (await other.api.send("GET", ENDPOINTS)).expect(200)["items"] == []
    (await isp.api.send("DELETE", path)).expect(204)
    (await isp.api.send("GET", path)).problem(404)
    (await isp.api.send("DELETE", path)).problem(404)

    # Each change has its event, and none tells a secret.
    feed = await everything(isp.api, lambda it: any(event["type"].endswith("EndpointDeleted") for event in it.events))
    in_order(feed)
    events = [event for event in feed.events if event["subject"] == endpoint["id"]]
    kinds = ["WebhookEndpointCreated", "WebhookEndpointUpdated", "WebhookEndpointDeleted"]
    assert [event["type"].rpartition(".")[2] for event in events] == kinds
    assert events[0]["data"]["host"] == "hooks.acme.example"
    assert "token" not in str(events)
    assert endpoint["secret"] not in str(events)


@pytest.fixture
def limited(stack: Stack, isp: Tenant) -> Callable[..., Api]:
    """The API as one who may do what there is to do with webhooks, and read what these scopes let him read."""

    def api(*scopes: str) -> Api:
        allowed = ["webhooks:read", "webhooks:write", *scopes]
        return isp.api.as_(TokenIssuer(stack.jwt_secret_key).issue(str(uuid4()), UUID(isp.id), allowed))

    return api


async def test_nobody_has_sent_what_he_may_not_read(isp: Tenant, limited: Callable[..., Api]) -> None:
    body, any_version = {"url": "https://hooks.acme.example/"}, {"If-Match": "*"}
    clerk, beyond = limited("customers:read"), "more-than-own-scopes"
    for types in ([INVOICED], [CREATED, INVOICED], []):  # none means all
        (await clerk.send("POST", ENDPOINTS, {**body, "event_types": types})).problem(403, beyond)
    (await clerk.send("POST", ENDPOINTS, body)).problem(403, beyond)
    (await limited().send("POST", ENDPOINTS, {**body, "event_types": [CREATED]})).problem(403, beyond)
    (await limited("billing:read").send("POST", ENDPOINTS, {**body, "event_types": [CREATED]})).problem(403, beyond)

    endpoint = (await clerk.send("POST", ENDPOINTS, {**body, "event_types": [CREATED, DISABLED]})).expect(201)
    path = f"{ENDPOINTS}/{endpoint['id']}"
    (await clerk.send("PATCH", path, {"description": "Own"}, headers=any_version)).expect(200)
    for types in ([INVOICED], []):
        (await clerk.send("PATCH", path, {"event_types": types}, headers=any_version)).problem(403, beyond)
    (await isp.api.send("PATCH", path, {"event_types": [INVOICED]}, headers=any_version)).expect(200)
    for change in ({"url": "https://mine.acme.example/"}, {"event_types": [CREATED]}, {"enabled": False}):
        (await clerk.send("PATCH", path, change, headers=any_version)).problem(403, beyond)
    for command in ("rotate-secret", "replay"):
        (await clerk.send("POST", f"{path}/{command}", {})).problem(403, beyond)
    unchanged = (await isp.api.send("GET", path)).expect(200)
    assert (unchanged["url"], unchanged["event_types"], unchanged["version"]) == (body["url"], [INVOICED], 3)
    (await limited("billing:read").send("POST", f"{path}/rotate-secret", {})).expect(200)
    (await clerk.send("DELETE", path)).expect(204)


async def test_what_waits_or_was_sent_is_told_to_nobody_who_may_not_read_it(
    isp: Tenant, hook: Receiver, limited: Callable[..., Api]
) -> None:
    hook.behaviour = answering(503, **{"Retry-After": "3600"})
    (customer,) = await created(isp.api, 1, "Waiting")

    async def queued() -> dict[str, Any] | None:
        waiting = await deliveries(isp.api, hook, status="pending")
        return waiting[0] if waiting else None

    delivery = await eventually(queued)
    read, biller, clerk = f"{DELIVERIES}/{delivery['id']}", limited("billing:read"), limited("customers:read")
    hidden = (await biller.send("GET", read)).expect(200)
    assert (hidden["event"], hidden["event_type"], hidden["id"]) == (None, CREATED, delivery["id"])
    assert (await clerk.send("GET", read)).expect(200)["event"]["subject"] == customer

    # Once it is sent events of other kinds, those who may read these may not have sent elsewhere what still waits.
    path, any_version = f"{ENDPOINTS}/{delivery['endpoint_id']}", {"If-Match": "*"}
    elsewhere = {"url": "https://mine.acme.example/"}
    (await isp.api.send("PATCH", path, {"event_types": [INVOICED]}, headers=any_version)).expect(200)
    (await biller.send("PATCH", path, elsewhere, headers=any_version)).problem(403, "more-than-own-scopes")
    # Nor what was given up.
    for enabled in (False, True):
        (await isp.api.send("PATCH", path, {"enabled": enabled}, headers=any_version)).expect(200)
    (await biller.send("POST", f"{read}/replay")).problem(403, "more-than-own-scopes")
    assert await deliveries(isp.api, hook, status="pending") == []


@pytest.mark.parametrize(
    "url",
    ["https://10.0.0.1/x", "https://169.254.169.254/latest", "https://[fd00::1]/x", "https://user:pw@acme.example/"],
)
async def test_a_url_that_nothing_may_be_sent_to_is_refused(isp: Tenant, url: str) -> None:
    (await isp.api.send("POST", ENDPOINTS, {"url": url})).problem(422, "url-refused")
    endpoint = (await isp.api.send("POST", ENDPOINTS, {"url": "https://hooks.acme.example/"})).expect(201)
    path = f"{ENDPOINTS}/{endpoint['id']}"
    (await isp.api.send("PATCH", path, {"url": url}, headers={"If-Match": "*"})).problem(422, "url-refused")
    (await isp.api.send("DELETE", path)).expect(204)


async def test_there_can_be_so_many_endpoints_and_no_more(stack: Stack, public: Api) -> None:
    issuer = TokenIssuer(stack.jwt_secret_key)
    api = public.as_(issuer.issue("x", uuid4(), ["webhooks:read", "webhooks:write", "customers:read"]))
    body = {"url": "https://hooks.acme.example/", "event_types": [CREATED]}
    answers = await asyncio.gather(*(api.send("POST", ENDPOINTS, body) for _ in range(24)))
    assert sorted(answer.status for answer in answers) == [201] * 20 + [409] * 4
    listed = (await api.send("GET", ENDPOINTS, params={"limit": "15"})).expect(200)
    rest = (await api.send("GET", ENDPOINTS, params={"cursor": listed["next_cursor"]})).expect(200)
    assert (len(listed["items"]), len(rest["items"]), rest["next_cursor"]) == (15, 5, None)


async def test_events_are_delivered_in_order_one_at_a_time_and_only_those_that_are_wanted(
    isp: Tenant, other: Tenant, hook: Receiver
) -> None:
    await asyncio.gather(created(other.api, 3, "Not theirs"), *(created(isp.api, 25, f"W{n}") for n in range(6)))

    async def all_of_them() -> bool:
        return len(hook.events) >= 150

    await eventually(all_of_them)
    assert hook.unverified == 0
    assert hook.most_at_once == 1
    assert {(event["type"], event["tenantid"]) for event in hook.events} == {(CREATED, isp.id)}
    feed = await everything(isp.api, lambda it: {*hook.ids()} <= {*it.ids()}, type=CREATED)
    assert feed.ids()[-150:] == hook.ids()
    assert feed.events[-150:] == hook.events

    async def kept() -> list[dict[str, Any]] | None:  # what was answered is noted after that
        found = await deliveries(isp.api, hook, status="succeeded")
        return found if len(found) == 150 else None

    done = await eventually(kept)
    assert [item["event_id"] for item in done] == hook.ids()
    detail = (await isp.api.send("GET", f"{DELIVERIES}/{done[0]['id']}")).expect(200)
    assert detail["event"] == hook.events[0]
    assert [(entry["number"], entry["status"], entry["error"]) for entry in detail["log"]] == [(1, 204, None)]
    (await other.api.send("GET", f"{DELIVERIES}/{done[0]['id']}")).problem(404)
    (await other.api.send("POST", f"{DELIVERIES}/{done[0]['id']}/replay")).problem(404)
    assert (await other.api.send("GET", DELIVERIES)).expect(200)["items"] == []


async def test_one_that_fails_holds_up_what_is_behind_it_until_it_is_taken(isp: Tenant, hook: Receiver) -> None:
    left = 3

    async def failing(_request: web.Request) -> web.StreamResponse:
        nonlocal left
        left -= 1
        return web.Response(status=500, text="not now") if left >= 0 else web.Response()

    hook.behaviour = failing
    customers = await created(isp.api, 10, "Failing")
    await told(hook, customers)
    assert hook.attempts == [hook.ids()[0]] * 3 + hook.ids()
    await in_feed_order(isp.api, hook)
    done = (await deliveries(isp.api, hook))[0]
    assert (done["status"], done["attempts"]) == ("succeeded", 4)
    log = (await isp.api.send("GET", f"{DELIVERIES}/{done['id']}")).expect(200)["log"]
    assert [entry["status"] for entry in log] == [500, 500, 500, 200]
    assert (log[0]["error"], log[0]["response"]) == ("it answered 500", "not now")
    gaps = [
        datetime.fromisoformat(after["started_at"]) - datetime.fromisoformat(before["started_at"])
        for before, after in pairwise(log)
    ]
    # At least as long as it says: a fifth of a second, three times as long each time, less a fifth.
    assert [gap.total_seconds() >= 0.16 * 3**tried for tried, gap in enumerate(gaps)] == [True, True, True]


async def test_one_that_is_away_gets_all_when_it_comes_back(isp: Tenant) -> None:
    async with receiver() as gone:
        await registered(isp.api, gone, [CREATED])
    customers = await created(isp.api, 5, "Away")

    async def tried() -> bool:
        waiting = await deliveries(isp.api, gone, status="pending")
        return len(waiting) == 5 and waiting[0]["attempts"] > 1

    await eventually(tried)
    runner = web.AppRunner(app := web.Application())
    app.router.add_post("/hook", gone._hook)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", gone.port).start()
    try:
        await told(gone, customers)
    finally:
        await runner.cleanup()
    await in_feed_order(isp.api, gone)
    (await isp.api.send("DELETE", f"{ENDPOINTS}/{(await endpoint_of(isp.api, gone))['id']}")).expect(204)


async def test_a_slow_one_holds_up_nobody_else(isp: Tenant, hook: Receiver) -> None:
    async with receiver() as slow:
        endpoint = await registered(isp.api, slow, [CREATED])
        slow.behaviour = never
        customers = await created(isp.api, 20, "Slow")
        await told(hook, customers)
        assert len({*slow.attempts}) <= 1  # what is behind the first one waits
        slow.behaviour = accepting
        await told(slow, customers)
        (await isp.api.send("DELETE", f"{ENDPOINTS}/{endpoint['id']}")).expect(204)
    await in_feed_order(isp.api, slow)


async def test_a_secret_is_rotated_without_a_gap(isp: Tenant, hook: Receiver) -> None:
    endpoint = await endpoint_of(isp.api, hook)
    path, old = f"{ENDPOINTS}/{endpoint['id']}", hook.secret
    writing = asyncio.create_task(created(isp.api, 60, "Rotated"))
    rotated = (await isp.api.send("POST", f"{path}/rotate-secret", {"overlap_hours": 1})).expect(200)
    assert rotated["version"] == 2
    await told(hook, await writing)  # verified by the old one all the while
    assert (hook.unverified, len(hook.events)) == (0, 60)
    new = hook.secret = rotated["secret"]
    assert new != old
    await told(hook, await created(isp.api, 3, "By the new one"))
    assert hook.unverified == 0
    assert len(hook.signatures[-1].split()) == 2
    # The old one ends with the overlap: a second rotation without one ends it at once.
    last = (await isp.api.send("POST", f"{path}/rotate-secret", {"overlap_hours": 0})).expect(200)
    hook.secret = last["secret"]
    await told(hook, await created(isp.api, 1, "By the last one"))
    assert hook.unverified == 0
    assert len(hook.signatures[-1].split()) == 1
    Webhook(old)  # it is a secret, only none of this endpoint's any more


async def test_one_that_says_it_is_gone_is_disabled_and_misses_nothing_that_it_asks_for(
    isp: Tenant, hook: Receiver
) -> None:
    hook.behaviour = answering(410)
    since = datetime.now(UTC)
    customers = await created(isp.api, 4, "Gone")

    async def disabled() -> dict[str, Any] | None:
        endpoint = await endpoint_of(isp.api, hook)
        return None if endpoint["enabled"] else endpoint

    endpoint = await eventually(disabled)
    assert endpoint["disabled_reason"] == "it answered 410: it is gone"
    customers += await created(isp.api, 2, "Missed")
    path = f"{ENDPOINTS}/{endpoint['id']}"

    feed = await everything(
        isp.api, lambda it: bool(it.events) and it.events[-1]["subject"] == endpoint["id"], type=DISABLED
    )
    assert feed.events[-1]["data"]["reason"] == endpoint["disabled_reason"]
    span = {"since": since.isoformat()}
    (await isp.api.send("POST", f"{path}/replay", span)).problem(409, "endpoint-disabled")

    async def all_recorded() -> bool:
        listed = await everything(isp.api, lambda it: it.heartbeats > 0, type=CREATED)
        return {*customers} <= {event["subject"] for event in listed.events}

    # Once it is enabled, what is recorded is sent; so all that it is to miss comes before.
    await eventually(all_recorded)
    hook.behaviour = accepting
    headers = {"If-Match": f'"{endpoint["version"]}"'}
    enabled = (await isp.api.send("PATCH", path, {"enabled": True}, headers=headers)).expect(200)
    assert enabled["disabled_reason"] is None
    assert hook.events == []
    replayed = (await isp.api.send("POST", f"{path}/replay", span)).expect(202)
    assert replayed["deliveries"] == 6
    await told(hook, customers)
    await in_feed_order(isp.api, hook)
    early = {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}
    (await isp.api.send("POST", f"{path}/replay", early)).problem(422, "empty-span")


async def test_one_that_is_disabled_while_it_is_sent_events_is_sent_no_more(isp: Tenant, hook: Receiver) -> None:
    taken, go_on = asyncio.Event(), asyncio.Event()

    async def held(_request: web.Request) -> web.StreamResponse:
        taken.set()
        await go_on.wait()
        return web.Response()

    hook.behaviour = answering(503)
    await created(isp.api, 20, "Disabled")

    async def queued() -> bool:
        return len(await deliveries(isp.api, hook, status="pending")) == 20

    await eventually(queued)
    hook.behaviour = held
    await asyncio.wait_for(taken.wait(), 60)
    path = f"{ENDPOINTS}/{(await endpoint_of(isp.api, hook))['id']}"
    (await isp.api.send("PATCH", path, {"enabled": False}, headers={"If-Match": "*"})).expect(200)
    go_on.set()
    (await isp.api.send("PATCH", path, {"enabled": True}, headers={"If-Match": "*"})).expect(200)
    customers = await created(isp.api, 1, "Enabled")
    await told(hook, customers)
    assert len(hook.events) == 2  # what was under way, and what came after


async def test_one_that_fails_for_days_is_disabled(stack: Stack, isp: Tenant, hook: Receiver) -> None:
    hook.behaviour = answering(500)
    endpoint = await endpoint_of(isp.api, hook)
    await created(isp.api, 2, "For days")
    connection = await asyncpg.connect(stack.database_url("integration", "consumer"))
    try:
        await connection.execute(f"set app.tenant_ids = '{isp.id}'")

        async def failing() -> bool:
            # As if it had begun five days ago.
            moved = await connection.execute(
                "update webhook_queue set failing_since = now() - interval '5 days'"
                " where endpoint_id = $1 and failing_since is not null and lease is null",
                UUID(endpoint["id"]),
            )
            return moved == "UPDATE 1"

        await eventually(failing)
    finally:
        await connection.close()

    async def disabled() -> dict[str, Any] | None:
        found = await endpoint_of(isp.api, hook)
        return None if found["enabled"] else found

    assert (await eventually(disabled))["disabled_reason"] == "it has failed for 120 hours"
    assert {item["status"] for item in await deliveries(isp.api, hook)} == {"failed"}


async def test_one_event_that_is_never_taken_is_given_up_and_the_next_one_goes_on(
    stack: Stack, isp: Tenant, hook: Receiver
) -> None:
    async def picky(request: web.Request) -> web.StreamResponse:
        return web.Response(status=400 if request.headers["webhook-id"] == hook.attempts[0] else 200)

    hook.behaviour = picky
    customers = await created(isp.api, 3, "Picky")  # one of them, whichever comes first
    connection = await asyncpg.connect(stack.database_url("integration", "consumer"))
    try:
        await connection.execute(f"set app.tenant_ids = '{isp.id}'")

        async def given_up() -> bool:
            # As if it had been tried for three days; again and again, as an attempt under way notes what it began with.
            await connection.execute(
                "update webhook_delivery set first_attempt_at = now() - interval '3 days'"
                " where status = 'pending' and attempts > 0 and event_id = $1",
                UUID(hook.attempts[0]) if hook.attempts else uuid4(),
            )
            found = [item["status"] for item in await deliveries(isp.api, hook)]
            return found == ["failed", "succeeded", "succeeded"]

        await eventually(given_up)
    finally:
        await connection.close()
    assert hook.attempts[0] not in hook.ids()
    await in_feed_order(isp.api, hook)
    failed, *_ = await deliveries(isp.api, hook)
    assert (await endpoint_of(isp.api, hook))["enabled"]
    # Once it can be taken it can be sent again, with its id.
    hook.behaviour = accepting
    again = (await isp.api.send("POST", f"{DELIVERIES}/{failed['id']}/replay")).expect(202)
    assert (again["replay"], again["event_id"]) == (True, failed["event_id"])
    await told(hook, customers)
    assert hook.ids()[-1] == failed["event_id"]


async def test_what_is_being_tried_can_not_be_replayed(isp: Tenant, hook: Receiver) -> None:
    hook.behaviour = answering(503, **{"Retry-After": "3600"})
    await created(isp.api, 1, "Pending")

    async def tried() -> dict[str, Any] | None:
        waiting = await deliveries(isp.api, hook, status="pending")
        return waiting[0] if waiting and waiting[0]["attempts"] else None

    waiting = await eventually(tried)
    (await isp.api.send("POST", f"{DELIVERIES}/{waiting['id']}/replay")).problem(409, "wrong-state")


async def test_killed_while_it_delivers_the_service_loses_nothing(stack: Stack, isp: Tenant, hook: Receiver) -> None:
    chance, working = random.Random(11), asyncio.Event()

    async def sometimes(_request: web.Request) -> web.StreamResponse:
        working.set()
        await asyncio.sleep(chance.random() / 20)
        return web.Response(status=503 if chance.random() < 0.1 else 200)

    hook.behaviour = sometimes
    writing = asyncio.gather(*(created(isp.api, 40, f"K{n}") for n in range(5)))
    for _ in range(3):
        working.clear()
        await asyncio.wait_for(working.wait(), 60)
        stack.children["integration"].kill()
        await stack.wait_ready("integration")
    customers = [customer for some in await writing for customer in some]
    await told(hook, customers)
    first = list(dict.fromkeys(hook.ids()))
    assert len(first) == len(customers) == 200
    feed = await everything(isp.api, lambda it: {*first} <= {*it.ids()}, type=CREATED)
    assert feed.ids()[-200:] == first  # each for the first time in the order of the feed
    # What came twice is what was under way when the service was killed.
    assert len(hook.events) - len(first) <= 3
    assert hook.unverified == 0

    async def done() -> bool:
        return not await deliveries(isp.api, hook, status="pending")

    await eventually(done)
