"""A hostile tenant tries every operation with what is another's: it reads nothing, changes nothing, and learns nothing.

The operations come from the OpenAPI document: one with an id, a query or a body that this file does not know fails the
run. Each is tried with the id of the victim's thing and with one of nothing, and is answered alike.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from deploy.roles import SERVICES
from deploy.stack.stack import Stack
from tests.api import Answer, Api, eventually
from tests.conftest import PASSWORD, Tenant, sign_in
from tests.deployments import past_security, tables_of_tenants
from tests.feed import Reader, connected
from tests.integration.test_audit import LOG, published
from tests.integration.test_flow import accounts_of, billed, imported
from tests.integration.test_sign_up import signed_up
from tests.integration.test_webhooks import registered
from tests.receiver import receiver
from tests.security.test_api03_broken_object_property_level_authorization import document, objects
from tests.subscriptions import all_handled

V1 = "/api/v1"
_VARYING = {"date", "x-request-id", "traceparent", "x-response-time", "x-ratelimit-remaining", "ratelimit"}
"""Headers that differ between any two answers, and tell of the caller alone."""
_FORBIDDEN = ("tenant_id", "sign_up_id", "letter_id", "template_id")
"""Ids of what is the platform's affair: a tenant has no scope for it, and gets 403 whatever the id is."""
_NAMES = {"category"}
"""In paths, what is called the same with every tenant and has no id: test_settings tries whose it is."""
_STREAMS = {f"{V1}/events", f"{V1}/audit-entries/export"}
"""Read by tests of their own."""
_MONEY = {"amount_minor": 1, "currency": "USD"}


@dataclass(frozen=True)
class Victim:
    """A tenant with one of everything, and the ids of it by the names that the document has for them."""

    isp: Tenant
    ids: dict[str, str]
    mark: str
    """By which its things are called where others may call theirs the same: code, reference, role."""
    secret: str
    """Stands in each thing."""

    def seen_in(self, text: str, *echoed: str) -> set[str]:
        """Return what of the victim a text gives away, beside what was asked for in the same words."""
        told = {self.secret, *self.ids.values()} - {*echoed, self.ids["letter_id"]}
        return {secret for secret in told if secret in text}


@pytest.fixture(scope="module")
async def victim(stack: Stack, public: Api, platform: Api, isp: Tenant) -> AsyncIterator[Victim]:
    api, mark, secret = isp.api, f"mark{uuid4().hex[:10]}", f"secret{uuid4().hex[:10]}"

    async def made(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = (await api.send("POST", V1 + path, body)).expect(201)
        return answer

    async def listed(path: str) -> str:
        async def first() -> str | None:
            items = (await api.send("GET", V1 + path)).expect(200)["items"]
            return items[0]["id"] if items else None

        return await eventually(first)

    async with receiver() as hook:
        endpoint = await registered(api, hook, ["dotmac.customer.CustomerCreated"], description=secret)
        customer = await made("/customers", {"name": secret, "email": f"{mark}@t.example", "external_reference": mark})
        # A line that is accepted, and one that is not.
        job = await imported(api, f"name,email\n{secret},{mark}2@t.example\n{secret},not-an-address\n")
        plan = await made("/plans", {"code": mark.upper(), "name": secret, "price": {**_MONEY, "amount_minor": 1000}})
        await accounts_of(api, mark)
        order = {"customer_id": customer["id"], "plan_code": plan["code"]}
        subscription = await made("/subscriptions", order)
        run = await billed(api, subscription["started_on"][:7])
        account = subscription["account_id"]
        payment = await made("/payments", {"account_id": account, "amount": _MONEY, "method": "cash"})
        allowed = {"name": mark, "scopes": ["customers:read"]}
        described = {**allowed, "description": secret}
        settings = {"display_name": secret, "website": f"https://{mark}.example/"}
        (await api.send("PATCH", f"{V1}/settings/branding", settings, headers={"If-Match": "*"})).expect(200)
        role, program = await made("/roles", described), await made("/service-accounts", described)
        own = api.as_(await sign_in(public, isp.administrator, PASSWORD, isp.slug))
        key = (await own.send("POST", f"{V1}/api-keys", {**allowed, "name": secret})).expect(201)

        async def delivered() -> str | None:
            items = (await api.send("GET", f"{V1}/webhook-deliveries")).expect(200)["items"]
            done = [item for item in items if item["status"] == "succeeded"]
            return done[0]["id"] if len(done) == len(items) == 2 else None

        delivery = await eventually(delivered)

        async def audited() -> bool:
            known = {entry["id"] for entry in (await api.send("GET", f"{LOG}/export")).expect(200)}
            return known >= await published(stack, isp.id, SERVICES)

        await eventually(audited)
        await all_handled(stack.kafka)
        event = (await api.send("GET", LOG, params={"resource_id": customer["id"]})).expect(200)["items"][0]["id"]
        yield Victim(
            isp,
            {
                "tenant_id": isp.id,
                "user_id": await listed("/users"),
                "session_id": await listed("/sessions"),
                "role_id": role["id"],
                "api_key_id": key["id"],
                "service_account_id": program["id"],
                "credential_id": program["credential_id"],
                "template_id": await templated(platform, mark, secret),
                "sign_up_id": (await signed_up(public, platform))["id"],
                "import_id": job["id"],
                "customer_id": customer["id"],
                "account_id": account,
                "plan_id": plan["id"],
                "subscription_id": subscription["id"],
                "run_id": run["id"],
                "invoice_id": await listed("/invoices"),
                "payment_id": payment["id"],
                "deployment_id": isp.deployment["id"],
                "endpoint_id": endpoint["id"],
                "delivery_id": delivery,
                "event_id": event,
                "resource_id": customer["id"],
                "letter_id": "1",
            },
            mark,
            secret,
        )


async def templated(platform: Api, mark: str, secret: str) -> str:
    """Make a template of the platform's, and return its id."""
    body = {"name": mark, "description": secret}
    made: str = (await platform.send("POST", f"{V1}/deployment-templates", body)).expect(201)["id"]
    return made


async def digests(stack: Stack, tenant: str) -> dict[str, str]:
    """Return a digest of a tenant's rows in each table of each database, read past row-level security."""
    found = {}
    for service in SERVICES:
        async with past_security(stack, service) as connection:
            for name in await tables_of_tenants(connection):
                if name in ("outbox", "journal"):
                    continue  # what is published goes from the one to the other: they are looked at as one, below
                found[f"{service}.{name}"] = await connection.fetchval(
                    f"select md5(string_agg(t::text, chr(10) order by t::text)) from {name} t where tenant_id = $1",
                    UUID(tenant),
                )
        found[f"{service} events"] = str(sorted(await published(stack, tenant, [service])))
    return found


@pytest.fixture(autouse=True)
async def unharmed(stack: Stack, victim: Victim, other: Tenant) -> AsyncIterator[None]:
    """After each test the victim's rows are what they were before, and the hostile tenant's last act is through."""
    before = await digests(stack, victim.isp.id)
    assert sum(digest is not None for digest in before.values()) > 30
    yield
    last = (await other.api.send("POST", f"{V1}/customers", {"name": "last"})).expect(201)

    async def through() -> bool:
        opened = await other.api.send("GET", f"{V1}/billing-accounts", params={"customer_id": last["id"]})
        known = {entry["id"] for entry in (await other.api.send("GET", f"{LOG}/export")).expect(200)}
        return bool(opened.expect(200)["items"]) and known >= await published(stack, other.id, SERVICES)

    await eventually(through)
    assert await digests(stack, victim.isp.id) == before


async def operations(public: Api) -> list[tuple[str, str, dict[str, Any]]]:
    """Return every operation of the document: method, path, and what it says of it."""
    api = await document(public)
    return [(verb.upper(), path, stated) for path, item in api["paths"].items() for verb, stated in item.items()]


def nothing(theirs: str) -> str:
    """Return an id of nothing, of the form and the age of one that is: what is young may be waited for."""
    return theirs[:24] + uuid4().hex[:12] if "-" in theirs else "987654321"


def queries(stated: dict[str, Any]) -> list[str]:
    return [parameter["name"] for parameter in stated.get("parameters", []) if parameter["in"] == "query"]


def told(answer: Answer, *ids: str) -> tuple[Any, ...]:
    """Return all that an answer says but for the ids that it was asked with."""
    headers = {name.lower(): value for name, value in answer.headers.items() if name.lower() not in _VARYING}
    text = f"{answer.body}"
    for identity in ids:
        text = text.replace(identity, "ID")
    # As long as what it says, which has ids of one length.
    return answer.status, text, headers


CLAIMS = ("nothing", "everything")


def claimed(name: str, victim: Victim) -> dict[str, str]:
    """Return the headers by which one says to be of the victim's: none, or all at once."""
    if name == "nothing":
        return {}
    isp, host = victim.isp, f"{victim.isp.slug}.example"
    return {
        "X-Tenant-ID": isp.id,
        "X-Tenant": isp.slug,
        "Tenant": isp.slug,
        "X-User-ID": victim.ids["user_id"],
        "X-Forwarded-User": isp.administrator,
        "ce_tenantid": isp.id,
        "Baggage": f"tenant_id={isp.id}",
        "Host": host,
        "X-Forwarded-Host": host,
        "X-Forwarded-Prefix": f"/{isp.slug}",
        "X-Original-Host": host,
        "Forwarded": f"host={host}",
        "Origin": f"https://{host}",
        "Referer": f"https://{host}/",
        "Cookie": f"tenant={isp.id}; session={victim.ids['session_id']}",
    }


async def test_what_is_anothers_is_answered_as_what_is_not_there(public: Api, victim: Victim, other: Tenant) -> None:
    async def answered(method: str, template: str, names: list[str], ids: tuple[str, ...], claim: str) -> Any:
        given = iter(ids)
        path = re.sub(r"{\w+}", lambda _: next(given), template)
        body = {} if method in ("PATCH", "POST", "PUT") else None
        headers = {"If-Match": "*", "Last-Event-ID": "1", **claimed(claim, victim)}
        answer = await other.api.send(method, path, body, headers=headers)
        # What a tenant has no scope for it is not let near, whatever the id.
        forbidden = {*names} & {*_FORBIDDEN} or (names, method) == (["deployment_id"], "POST")
        answer.problem(403 if forbidden else 404)
        assert not victim.seen_in(f"{answer.body}{answer.headers}", *ids), f"{method} {template}"
        return told(answer, *ids)

    async def tried(method: str, template: str, names: list[str], claim: str) -> None:
        theirs = tuple(victim.ids[name] for name in names)
        # Of nothing at all; and, of what has two ids, within what is the victim's.
        nobodys = [tuple(map(nothing, theirs)), (*theirs[:-1], nothing(theirs[-1]))][-len(theirs) :]
        # All at once: a deployment that may have been asked for a moment ago is waited for, whosever it is.
        one, *others = await asyncio.gather(
            *(answered(method, template, names, ids, claim) for ids in (theirs, *nobodys))
        )
        assert all(one == another for another in others), f"{method} {template}"

    attempts = []
    for method, template, _ in await operations(public):
        names = re.findall(r"{(\w+)}", template)
        if {*names} & _NAMES:
            continue
        assert victim.ids.keys() >= {*names}, f"{method} {template} has an id that is not tried here"
        attempts += [tried(method, template, names, claim) for claim in CLAIMS if names]
    assert len(attempts) >= 80
    await asyncio.gather(*attempts)


@pytest.mark.parametrize("claim", CLAIMS)
async def test_a_list_has_nothing_of_anothers_whatever_it_is_asked_by(
    public: Api, victim: Victim, other: Tenant, claim: str
) -> None:
    headers, tried = claimed(claim, victim), 0
    for method, template, stated in await operations(public):
        if method != "GET" or "{" in template or template in _STREAMS:
            continue
        names = queries(stated)
        asked: list[tuple[str, str, str]] = []
        for name in (name for name in names if name.endswith("_id")):
            assert name in victim.ids, f"{method} {template} has a query that is not tried here"
            asked.append((name, victim.ids[name], nothing(victim.ids[name])))
        if "cursor" in names:
            # The platform's own lists are no tenant's to read, and have no cursor to steal.
            page = await victim.isp.api.send(method, template, params={"limit": "1"})
            if page.status == 200 and page.body["next_cursor"]:
                answer = await other.api.send(
                    method, template, headers=headers, params={"cursor": page.body["next_cursor"]}
                )
                assert answer.status == 200
                assert not victim.seen_in(f"{answer.body}{answer.headers}"), f"{template} by a cursor"
                tried += 1
        for name, theirs, missing in asked:
            answers = [
                (told(await other.api.send(method, template, headers=headers, params={name: value}), value))
                for value in (theirs, missing)
            ]
            assert answers[0] == answers[1], f"{template} by {name}"
            tried += 1
        answer = await other.api.send(method, template, headers=headers)
        assert not victim.seen_in(f"{answer.body}{answer.headers}"), template
    assert tried >= 12


def bodies(victim: Victim) -> dict[tuple[str, str], list[tuple[str, Any, Any]]]:
    """Return, of each operation whose body names something, bodies that are good but for whose the thing is.

    Each is the name of what it names, the victim's, and what is not there.
    """
    customer, account, plan = victim.ids["customer_id"], victim.ids["account_id"], victim.mark.upper()
    missing, unknown = nothing(customer), f"mark{uuid4().hex[:10]}"
    base = {"plan_code": "FIBER"}
    orders = [
        ("customer_id", {**base, "customer_id": customer}, {**base, "customer_id": missing}),
        (
            "customer_external_reference",
            {**base, "customer_external_reference": victim.mark},
            {**base, "customer_external_reference": unknown},
        ),
    ]
    paid = {"amount": _MONEY, "method": "cash"}
    named = {"email": f"{uuid4().hex}@t.example"}
    return {
        ("POST", f"{V1}/subscriptions"): orders,
        ("POST", f"{V1}/subscriptions/bulk"): [
            (name, {"items": [theirs]}, {"items": [nobodys]}) for name, theirs, nobodys in orders
        ],
        ("POST", f"{V1}/payments"): [("account_id", {**paid, "account_id": account}, {**paid, "account_id": missing})],
        ("POST", f"{V1}/deploy"): [("tenant_id", {"tenant_id": victim.isp.id}, {"tenant_id": missing})],
        ("POST", f"{V1}/tenants/{{tenant_id}}/deployments"): [
            ("template_id", {"template_id": victim.ids["template_id"]}, {"template_id": missing})
        ],
        ("POST", f"{V1}/invitations"): [("roles", {**named, "roles": [victim.mark]}, {**named, "roles": [unknown]})],
        # Of a plan the code is the name; it is taken by whoever has it, and by nobody else.
        ("POST", f"{V1}/subscriptions#plan"): [
            ("plan_code", {"customer_id": "", "plan_code": plan}, {"customer_id": "", "plan_code": unknown.upper()})
        ],
    }


def names_in(stated: dict[str, Any], api: dict[str, Any]) -> Iterator[str]:
    """Yield the properties of an operation's body that name something by its id."""
    for content in stated.get("requestBody", {}).get("content", {}).values():
        for _, found in objects(content["schema"], api):
            yield from (name for name in found.get("properties", {}) if name.endswith(("_id", "_ids")))


async def test_a_body_that_names_what_is_anothers_is_refused_as_one_that_names_nothing(
    public: Api, victim: Victim, other: Tenant
) -> None:
    api, tried = await document(public), bodies(victim)
    mine = {"name": "Own", "external_reference": f"own-{uuid4().hex}"}
    own = (await other.api.send("POST", f"{V1}/customers", mine)).expect(201)
    await accounts_of(other.api, mine["external_reference"])
    for method, template, stated in await operations(public):
        if method == "POST" and template == f"{V1}/auth/token":
            continue  # `client_id` of who signs in: test_nothing_tells_whether_a_name_or_a_password_was_wrong
        known = {name for name, *_ in tried.get((method, template), [])}
        assert known >= {*names_in(stated, api)}, f"{method} {template} names something that is not tried here"
    for (method, template), pairs in tried.items():
        for name, *both in pairs:
            answers = []
            for body in both:
                if body.get("customer_id") == "":
                    body["customer_id"] = own["id"]
                path = template.partition("#")[0].replace("{tenant_id}", victim.isp.id)
                answer = await other.api.send(method, path, body)
                named = body["items"][0][name] if "items" in body else body[name]
                named = named[0] if isinstance(named, list) else named
                assert not victim.seen_in(f"{answer.body}", named), f"{method} {template}"
                refused = answer.body["rejected"] if answer.status == 200 else answer.status >= 400
                assert refused, f"{method} {template} took {name}: {answer}"
                answers.append(told(answer, named))
            assert answers[0] == answers[1], f"{method} {template} by {name}"


async def test_what_is_made_by_a_name_that_another_has_is_ones_own(victim: Victim, other: Tenant) -> None:
    """A name is taken within a tenant only: that it is free tells nothing."""
    mark = victim.mark
    for path, body in (
        ("/customers", {"name": "Mine", "email": f"{mark}@t.example", "external_reference": mark}),
        ("/plans", {"code": mark.upper(), "name": "Mine", "price": _MONEY}),
        ("/roles", {"name": mark, "scopes": ["customers:read"]}),
        ("/service-accounts", {"name": mark, "scopes": ["customers:read"]}),
    ):
        made = (await other.api.send("POST", V1 + path, body)).expect(201)
        assert made["id"] not in victim.ids.values()
        if path == "/roles":
            (await other.api.send("DELETE", f"{V1}/roles/{made['id']}")).expect(204)


async def test_an_import_reaches_ones_own_customers_only(victim: Victim, other: Tenant) -> None:
    ids, mark = victim.ids, victim.mark
    columns = {"id": ids["customer_id"], "customer_id": ids["customer_id"], "tenant_id": ids["tenant_id"]}
    for name, value in columns.items():
        for kind, content in (
            ("text/csv", f"name,external_reference,{name}\nMine,{mark},{value}\n"),
            ("application/x-ndjson", f'{{"name": "Mine", "external_reference": "{mark}", "{name}": "{value}"}}\n'),
        ):
            raw, headers = content.encode(), {"Content-Type": kind, "X-Tenant-ID": ids["tenant_id"]}
            answer = await other.api.send("POST", f"{V1}/customers/imports", raw=raw, headers=headers)
            assert answer.status in (202, 422), answer
    job = await imported(other.api, f"name,external_reference,email\nMine,{mark},{mark}@t.example\n")
    assert job["rejected"] == 0
    rows = (await other.api.send("GET", f"{V1}/customers", params={"external_reference": mark})).expect(200)["items"]
    assert [row["name"] for row in rows] == ["Mine"]
    assert ids["customer_id"] not in str(rows)


async def test_the_feed_goes_on_from_anothers_position_in_ones_own_events(victim: Victim, other: Tenant) -> None:
    marker = (await other.api.send("POST", f"{V1}/customers", {"name": "marker"})).expect(201)
    reader = Reader(last_id="1")
    params = {"tenant_id": victim.isp.id}

    def arrived() -> bool:
        return any(marker["id"] in str(event) for event in reader.events)

    async with connected(other.api, reader, **params) as answer:
        assert answer.status == 200
        await reader.read(answer, arrived)
    assert {event["tenantid"] for event in reader.events} == {other.id}
    assert not victim.seen_in(str(reader.events))


async def test_an_export_of_the_log_is_ones_own(victim: Victim, other: Tenant) -> None:
    for params in ({}, {"tenant_id": victim.isp.id}, {"resource_id": victim.ids["customer_id"]}):
        for claim in CLAIMS:
            headers = claimed(claim, victim)
            answer = await other.api.send("GET", f"{LOG}/export", params=params, headers=headers)
            assert not victim.seen_in(str(answer.expect(200)))
            assert (answer.body == []) is bool(params)
