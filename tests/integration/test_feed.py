"""The feed: a tenant's own events, each once and in order, however often its reader comes and goes."""

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from chassis.ids import new_id
from chassis.messaging.subscription import Received
from chassis.security.scopes import TENANT_ROLES
from chassis.security.tokens import TokenIssuer
from chassis.service import Service
from deploy.roles import SERVICES
from deploy.stack.stack import Stack
from dotmac_contracts.customer import CustomerTerminated
from dotmac_contracts.envelope import Envelope
from dotmac_contracts.topics import ALL
from services.integration.use_cases.forget_events import forget_events
from services.integration.use_cases.record_events import record_events
from tests.api import Api, eventually
from tests.conftest import PASSWORD, Tenant, deploy, lasting, sign_in
from tests.feed import FEED, Reader, connected, everything
from tests.in_process import service_in_process

V1 = "/api/v1"
WEBHOOKS = f"{V1}/webhook-endpoints"


async def published(stack: Stack, tenant: str) -> list[str]:
    """Return the ids of a tenant's public events, from the services' journals, once the outboxes are empty."""
    topics = [topic.name for topic in ALL if topic.public]
    found: list[str] = []
    for service in SERVICES:
        connection = await asyncpg.connect(stack.database_url(service, "relay"))
        try:

            async def sent(connection: Any = connection) -> bool:
                return not await connection.fetchval("select exists (select from outbox)")

            await eventually(sent)
            rows = await connection.fetch(
                "select event_id from journal where tenant_id = $1 and topic = any($2)", UUID(tenant), topics
            )
            found += [str(row["event_id"]) for row in rows]
        finally:
            await connection.close()
    return found


async def created(api: Api, count: int, name: str = "Customer") -> list[str]:
    async def one(number: int) -> str:
        answer = await api.send("POST", f"{V1}/customers", {"name": f"{name} {number}"})
        return str(answer.expect(201)["id"])

    return [await one(number) for number in range(count)]


def in_order(reader: Reader) -> None:
    """Assert that nothing came twice, and each aggregate's versions are 1, 2, 3 …"""
    assert len(set(reader.ids())) == len(reader.events)
    assert reader.positions == sorted(set(reader.positions))
    versions: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in reader.events:
        versions[event["source"], event["subject"]].append(event["aggregateversion"])
    for aggregate, found in versions.items():
        assert found == list(range(1, len(found) + 1)), aggregate


@pytest.fixture(scope="module")
async def isp(stack: Stack, public: Api, platform: Api) -> Tenant:
    deployed = await deploy(public, platform)
    return replace(deployed, api=lasting(stack, deployed.api))


async def test_what_happens_is_told_as_a_cloud_event(isp: Tenant) -> None:
    reader = Reader()
    async with asyncio.timeout(30), connected(isp.api) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        (customer,) = await created(isp.api, 1)
        await reader.read(answer, lambda: any(event["subject"] == customer for event in reader.events))
    (event,) = [event for event in reader.events if event["subject"] == customer]
    assert event["specversion"] == "1.0"
    assert event["type"] == "dotmac.customer.CustomerCreated"
    assert event["tenantid"] == isp.id
    assert event["data"]["name"] == "Customer 0"


async def test_all_events_come_once_and_in_order_and_none_of_another_tenant(
    stack: Stack, isp: Tenant, other: Tenant
) -> None:
    """While many write, a reader comes and goes at any moment, and goes on where it was."""
    chance, reader, over = random.Random(7), Reader(last_id="0"), asyncio.Event()

    async def reading() -> None:
        while not over.is_set():
            async with connected(isp.api, reader) as answer:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(chance.random() / 2):
                        await reader.read(answer)

    task = asyncio.create_task(reading())
    writers = [created(isp.api, 40, f"Of {number}") for number in range(8)]
    await asyncio.gather(created(other.api, 20, "Not theirs"), *writers)
    expected = set(await published(stack, isp.id))

    async def opened() -> set[str] | None:
        # Billing answers each customer with an account.
        now = set(await published(stack, isp.id))
        return now if sum(event["type"].endswith("AccountOpened") for event in reader.events) >= 320 else None

    expected |= await eventually(opened)
    await eventually(lambda: told(reader, expected))
    over.set()
    await task
    in_order(reader)
    assert {event["tenantid"] for event in reader.events} == {isp.id}
    # The same from the beginning, in one go.
    whole = await everything(isp.api, lambda it: len(it.events) >= len(reader.events))
    assert (whole.ids(), whole.positions) == (reader.ids(), reader.positions)


async def told(reader: Reader, expected: set[str]) -> bool:
    return expected <= set(reader.ids())


async def test_a_reader_gets_the_types_it_asks_for(isp: Tenant) -> None:
    (customer,) = await created(isp.api, 1)
    (await isp.api.send("POST", f"{V1}/customers/{customer}/terminate", {})).expect(200)
    types = ["dotmac.customer.CustomerTerminated", "dotmac.tenant.TenantActivated"]
    params: list[tuple[str, str]] = [("after", "0"), *(("type", kind) for kind in types)]
    reader = Reader()
    headers = {"Authorization": f"Bearer {isp.api.token}"}
    async with asyncio.timeout(30), isp.api.http.get(isp.api.url + FEED, params=params, headers=headers) as answer:
        await reader.read(answer, lambda: bool(reader.events) and reader.events[-1]["subject"] == customer)
        answer.close()
    assert {event["type"] for event in reader.events} == set(types)
    (await isp.api.send("GET", FEED, params={"type": "dotmac.provisioning.WorkspaceRequested"})).problem(422)


async def test_a_heartbeat_says_how_far_a_reader_is_though_nothing_was_for_it(isp: Tenant) -> None:
    whole = await everything(isp.api, lambda it: it.heartbeats > 0)
    reader = Reader(last_id="0")
    async with asyncio.timeout(30), connected(isp.api, reader, type="dotmac.billing.InvoicePaid") as answer:
        await reader.read(answer, lambda: reader.heartbeats > 0 and int(reader.last_id or 0) >= whole.positions[-1])
    assert reader.events == []


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "²"])
async def test_a_position_that_is_none_is_refused(isp: Tenant, last: str) -> None:
    for asked in ({"headers": {"Last-Event-ID": last}}, {"params": {"after": last}}):
        (await isp.api.send("GET", FEED, **asked)).problem(422, "invalid-request")  # type: ignore[arg-type]


async def test_a_position_that_was_never_given_is_gone(isp: Tenant) -> None:
    (await isp.api.send("GET", FEED, params={"after": "1000000"})).problem(410, "events-gone")


async def test_a_stream_ends_with_its_token(stack: Stack, isp: Tenant) -> None:
    issuer = TokenIssuer(stack.jwt_secret_key)
    short = isp.api.as_(issuer.issue("x", UUID(isp.id), ["events:read"], ttl=timedelta(seconds=3)))
    began = datetime.now(UTC)
    async with asyncio.timeout(30), connected(short) as answer:
        assert answer.status == 200
        await Reader().read(answer)
    assert timedelta(seconds=1) < datetime.now(UTC) - began < timedelta(seconds=8)
    (await isp.api.as_(issuer.issue("x", UUID(isp.id), ["customers:read"])).send("GET", FEED)).problem(403)


async def test_a_stream_ends_with_its_session_and_is_sent_nothing_more(stack: Stack, public: Api, isp: Tenant) -> None:
    user = public.as_(await sign_in(public, isp.administrator, PASSWORD, isp.slug))
    reader = Reader()
    async with asyncio.timeout(60), connected(user) as answer:
        (before,) = await created(isp.api, 1, "Before")
        await reader.read(answer, lambda: any(event["subject"] == before for event in reader.events))
        (await user.send("POST", f"{V1}/auth/logout")).expect(204)

        async def known() -> bool:  # to the process that sends
            return (await replace(user, url=stack.url("integration")).send("GET", WEBHOOKS)).status == 401

        await eventually(known)
        (after,) = await created(isp.api, 1, "After")
        await reader.read(answer)  # to its end
    await everything(isp.api, lambda it: any(event["subject"] == after for event in it.events))
    assert after not in {event["subject"] for event in reader.events}


async def test_events_are_told_to_whom_may_read_what_they_are_about(stack: Stack, isp: Tenant) -> None:
    issuer, opened = TokenIssuer(stack.jwt_secret_key), "dotmac.billing.BillingAccountOpened"

    def allowed(*scopes: str) -> Api:
        return isp.api.as_(issuer.issue(str(new_id()), UUID(isp.id), scopes))

    def domains(reader: Reader) -> set[str]:
        return {event["type"].split(".")[1] for event in reader.events}

    (customer,) = await created(isp.api, 1, "Billed")
    whole = await everything(
        isp.api,
        lambda it: any(event["type"] == opened and event["data"]["customer_id"] == customer for event in it.events),
    )
    (last,) = await created(isp.api, 1, "Last")
    technician = await everything(
        allowed(*TENANT_ROLES["technician"]), lambda it: any(event["subject"] == last for event in it.events)
    )
    in_order(technician)
    assert customer in {event["subject"] for event in technician.events}
    assert domains(whole) - domains(technician) == {"billing"}

    def at_the_end(reader: Reader) -> bool:
        return reader.heartbeats > 0 and int(reader.last_id or 0) >= technician.positions[-1]

    bare, biller, asking = await asyncio.gather(
        everything(allowed("events:read"), at_the_end),
        everything(allowed("events:read", "billing:read"), at_the_end),
        everything(allowed("events:read"), at_the_end, type=opened),
    )
    assert domains(whole) - domains(bare) == {"billing", "customer"}
    assert domains(whole) - domains(biller) == {"customer"}
    assert asking.events == []


async def test_a_replaced_instance_ends_its_streams_and_the_reader_goes_on_at_the_next(
    stack: Stack, isp: Tenant
) -> None:
    reader = Reader()
    async with asyncio.timeout(90), connected(isp.api) as answer:
        replacing = asyncio.create_task(stack.replace_service("integration"))
        before = await created(isp.api, 5, "Before")
        await reader.read(answer)  # to its end, which is a proper one
        assert reader.last_id is not None
        await replacing
    after = await created(isp.api, 5, "After")
    subjects = [*before, *after]
    async with asyncio.timeout(60), connected(isp.api, reader) as answer:
        assert answer.status == 200
        await reader.read(answer, lambda: {*subjects} <= {event["subject"] for event in reader.events})
    told = [
        event["subject"]
        for event in reader.events
        if event["type"].endswith("CustomerCreated") and event["subject"] in subjects
    ]
    assert sorted(told) == sorted(subjects)


async def test_a_connection_that_is_lost_is_made_anew_and_streams_go_on(stack: Stack, isp: Tenant) -> None:
    watching = await asyncpg.connect(stack.server_url)

    async def listens() -> int | None:
        query = "select pid from pg_stat_activity where application_name = 'integration-feed'"
        found: int | None = await watching.fetchval(query)
        return found

    reader = Reader()
    try:
        async with asyncio.timeout(30), connected(isp.api) as answer:
            first = await eventually(listens)
            await watching.execute(f"select pg_terminate_backend({first})")

            async def another() -> bool:
                return await listens() not in (None, first)

            await eventually(another)
            (customer,) = await created(isp.api, 1)
            await reader.read(answer, lambda: any(event["subject"] == customer for event in reader.events))
        assert reader.heartbeats == 0  # it was told
    finally:
        await watching.close()


async def test_killed_the_service_records_each_event_once(stack: Stack, isp: Tenant) -> None:
    whole = await everything(isp.api, lambda it: it.heartbeats > 0)
    writing = asyncio.create_task(created(isp.api, 100, "Killed"))
    for _ in range(3):
        await asyncio.sleep(0.3)
        stack.children["integration"].kill()
        await stack.wait_ready("integration")
    customers = await writing

    async def opened() -> bool:
        return bool((await isp.api.send("GET", f"{V1}/billing-accounts/summary")).body["count"] >= 100)

    await eventually(opened)
    expected = set(await published(stack, isp.id))
    reader = await everything(isp.api, lambda it: expected <= set(it.ids()), seconds=90)
    in_order(reader)
    assert reader.ids()[: len(whole.events)] == whole.ids()
    assert {*customers} <= {event["subject"] for event in reader.events}


# Beneath


@pytest.fixture
async def service(stack: Stack) -> AsyncIterator[Service]:
    async with service_in_process(stack, "integration") as parts:
        yield parts


def event(tenant: UUID) -> Received[CustomerTerminated]:
    terminated = CustomerTerminated(customer_id=new_id(), tenant_id=tenant, terminated_at=datetime.now(UTC))
    envelope = Envelope(new_id(), "/services/customer", terminated.TYPE, datetime.now(UTC), terminated.key, tenant, 1)
    return Received(envelope, terminated)


async def test_who_adds_to_a_feed_waits_for_who_did_before_so_that_no_position_appears_late(
    stack: Stack, service: Service
) -> None:
    tenant = new_id()
    watching = await asyncpg.connect(stack.server_url)

    async def visible() -> list[int]:
        async with service.db.for_tenant(tenant) as tx:
            rows = await tx.fetch("select position from feed_event order by position")
        return [row["position"] for row in rows]

    async def add(count: int) -> None:
        async with service.consumer_db.for_tenants([tenant]) as tx:
            await record_events(tx, service, [event(tenant) for _ in range(count)])

    try:
        async with service.consumer_db.for_tenants([tenant]) as tx:
            await record_events(tx, service, [event(tenant), event(tenant)])
            second = asyncio.create_task(add(3))

            async def waits() -> bool:
                return bool(
                    await watching.fetchval(
                        "select exists (select from pg_stat_activity where datname = 'dotmac_integration'"
                        " and wait_event_type = 'Lock' and query like 'insert into feed %')"
                    )
                )

            await eventually(waits)
            assert not second.done()
            assert await visible() == []
        await second
    finally:
        await watching.close()
    assert await visible() == [1, 2, 3, 4, 5]


async def test_what_is_older_than_a_week_is_forgotten_unless_it_is_still_to_be_delivered(
    stack: Stack, service: Service, public: Api
) -> None:
    tenant = new_id()
    async with service.consumer_db.for_tenants([tenant]) as tx:
        await record_events(tx, service, [event(tenant) for _ in range(5)])
        # An endpoint that nothing is due for: nobody delivers while this looks.
        endpoint = new_id()
        await tx.execute(
            "insert into webhook_endpoint (tenant_id, endpoint_id, url, event_types, enabled, secret, version)"
            " values ($1, $2, 'https://hooks.acme.example/', '{}', true, '', 1)",
            tenant,
            endpoint,
        )
        await tx.execute(
            "insert into webhook_delivery (tenant_id, delivery_id, endpoint_id, position, event_id, event_type,"
            " replay, created_at, status) select tenant_id, uuidv7(), $2, position, event_id, type, false, now(),"
            " case position when 2 then 'pending' else 'succeeded' end from feed_event where tenant_id = $1",
            tenant,
            endpoint,
        )
        await tx.execute("update feed_event set recorded_at = now() - interval '8 days' where position < 5")

    async def forgotten() -> bool:
        await forget_events(service)  # the stack's own may be faster
        async with service.db.for_tenant(tenant) as tx:
            return bool(await tx.fetchval("select count(*) from feed_event") == 2)

    await eventually(forgotten)
    async with service.db.for_tenant(tenant) as tx:
        kept = [row["position"] for row in await tx.fetch("select position from feed_event order by position")]
        logged = [row["position"] for row in await tx.fetch("select position from webhook_delivery order by position")]
    assert (kept, logged) == ([2, 5], [2, 5])
    issuer = TokenIssuer(stack.jwt_secret_key)
    api = public.as_(issuer.issue("x", tenant, ["events:read", "customers:read"]))
    gone = await api.send("GET", FEED, headers={"Last-Event-ID": "3"})
    gone.problem(410, "events-gone")
    assert (gone.body["earliest"], gone.body["latest"]) == (4, 5)
    reader = Reader()
    async with asyncio.timeout(30), connected(api, after=4) as answer:
        await reader.read(answer, lambda: len(reader.events) == 1)
    assert reader.positions == [5]
    async with service.db.for_tenant(tenant) as tx:  # the consumers' role sees old events of all tenants
        await tx.execute("delete from feed_event")
        await tx.execute("delete from webhook_endpoint")  # its secret is none that can be opened
