"""A new system starts from the present: the last record of each key says all there is to know."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from chassis.ids import new_id
from deploy.backup import databases
from deploy.stack.stack import Stack
from dotmac_contracts.billing import SubscriptionSnapshot
from dotmac_contracts.customer import CustomerSnapshot, CustomerUpdated
from dotmac_contracts.envelope import Event, Tombstone, decode
from dotmac_contracts.provisioning import DataDeletionRequested
from dotmac_contracts.tenant import TenantSnapshot
from dotmac_contracts.topics import (
    BILLING_SUBSCRIPTION_SNAPSHOT,
    CUSTOMER_SNAPSHOT,
    TENANT_SETTINGS_SNAPSHOT,
    TENANT_SNAPSHOT,
    Topic,
)
from services.customer.consumers import departures, snapshots
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy
from tests.deployments import done, past_security, settled
from tests.in_process import received, service_in_process
from tests.integration.test_deprovision import settle_in
from tests.integration.test_flow import imported
from tests.integration.test_journal import published, republish
from tests.subscriptions import all_handled

V1 = "/api/v1"


Records = Sequence["ConsumerRecord[bytes, bytes]"]
TOPICS = (TENANT_SNAPSHOT, CUSTOMER_SNAPSHOT, BILLING_SUBSCRIPTION_SNAPSHOT, TENANT_SETTINGS_SNAPSHOT)


def places(topic: Topic) -> list[TopicPartition]:
    return [TopicPartition(topic.name, number) for number in range(topic.partitions)]


async def ends(stack: Stack, topic: Topic) -> dict[TopicPartition, int]:
    async with AIOKafkaConsumer(bootstrap_servers=stack.kafka) as consumer:
        found: dict[TopicPartition, int] = await consumer.end_offsets(places(topic))
        return found


async def read(stack: Stack, topic: Topic, since: Mapping[TopicPartition, int] | None = None) -> Records:
    """Return what a topic holds, of each key in order; since: only what follows these offsets."""
    async with AIOKafkaConsumer(bootstrap_servers=stack.kafka) as consumer:
        consumer.assign(places(topic))
        await consumer.seek_to_beginning(*places(topic))
        for place, offset in (since or {}).items():
            consumer.seek(place, offset)
        last = await consumer.end_offsets(places(topic))
        found: list[ConsumerRecord[bytes, bytes]] = []
        while any([await consumer.position(place) < last[place] for place in places(topic)]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += records
        return found


async def present(stack: Stack, topic: Topic, key: str) -> tuple[int, Event] | None:
    """Return the last snapshot of a key, and its version, as a system reads it that never read before."""
    found = None
    for record in await read(stack, topic):
        if record.key == key.encode():
            envelope, event = decode(record.headers, record.value)
            version = envelope.aggregateversion
            assert found is None or version >= found[0], "a later snapshot says less"
            found = version, event
    return found


async def known(stack: Stack, topic: Topic, tenant: str) -> tuple[set[str], set[str]]:
    """Return the keys of a tenant of which something is known from a topic, and those that were taken back."""
    last = {record.key: record for record in await read(stack, topic)}
    here, gone = set(), set()
    for record in last.values():
        envelope, event = decode(record.headers, record.value)
        if str(envelope.tenantid) == tenant:
            (gone if isinstance(event, Tombstone) else here).add(event.key)
            assert isinstance(event, Tombstone) == (record.value is None)
    return here, gone


async def reached(stack: Stack, topic: Topic, key: str, version: int) -> Event:
    async def there() -> Event | None:
        found = await present(stack, topic, key)
        return found[1] if found and found[0] == version else None

    return await eventually(there)


def same(snapshot: Event, view: dict[str, Any]) -> None:
    """Assert that a snapshot says what the API says."""
    told = snapshot.model_dump(mode="json")
    common = told.keys() & view.keys()
    assert {name: told[name] for name in common} == {name: view[name] for name in common}
    assert view.keys() - common <= {"id", "version"}  # those are the record's key and a header


async def test_a_customer_as_it_is(stack: Stack, tenant: Tenant) -> None:
    data = {"name": "Ada", "email": "ada@example.com", "city": "Los Angeles", "external_reference": "snapshot-1"}
    path = f"{V1}/customers/{(await tenant.api.send('POST', f'{V1}/customers', data)).expect(201)['id']}"
    for version, name in enumerate(("Ada King", "Ada Lovelace"), 1):
        change = {"name": name, "city": None}
        (await tenant.api.send("PATCH", path, change, headers={"If-Match": f'"{version}"'})).expect(200)
    (await tenant.api.send("POST", f"{path}/terminate", {})).expect(200)
    view = (await tenant.api.send("GET", path)).expect(200)
    snapshot = await reached(stack, CUSTOMER_SNAPSHOT, view["id"], view["version"])
    assert isinstance(snapshot, CustomerSnapshot)
    assert (snapshot.status, snapshot.name, snapshot.city) == ("terminated", "Ada Lovelace", None)
    same(snapshot, view)


async def test_a_tenant_as_it_is(stack: Stack, platform: Api, tenant: Tenant) -> None:
    view = (await platform.send("GET", f"{V1}/tenants/{tenant.id}")).expect(200)
    snapshot = await reached(stack, TENANT_SNAPSHOT, tenant.id, view["version"])
    assert isinstance(snapshot, TenantSnapshot)
    assert snapshot.status == "active"
    same(snapshot, view)


async def test_a_subscription_as_it_is(stack: Stack, tenant: Tenant) -> None:
    customer = (await tenant.api.send("POST", f"{V1}/customers", {"name": "Subscriber"})).expect(201)
    order = {"customer_id": customer["id"], "plan_code": "FIBER", "started_on": "2026-01-01"}

    async def opened() -> bool:
        accounts = await tenant.api.send("GET", f"{V1}/billing-accounts", params={"customer_id": customer["id"]})
        return bool(accounts.expect(200)["items"])

    await eventually(opened)
    view = (await tenant.api.send("POST", f"{V1}/subscriptions", order)).expect(201)
    first = await reached(stack, BILLING_SUBSCRIPTION_SNAPSHOT, view["id"], 1)
    assert isinstance(first, SubscriptionSnapshot)
    assert (str(first.customer_id), first.cancelled_on) == (customer["id"], None)
    view = (await tenant.api.send("POST", f"{V1}/subscriptions/{view['id']}/cancel")).expect(200)
    snapshot = await reached(stack, BILLING_SUBSCRIPTION_SNAPSHOT, view["id"], view["version"])
    assert isinstance(snapshot, SubscriptionSnapshot)
    assert snapshot.cancelled_on is not None
    same(snapshot, view)


async def test_nothing_is_known_of_a_tenant_that_left(stack: Stack, public: Api, platform: Api) -> None:
    began = datetime.now(UTC)
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    await settle_in(isp)
    told: dict[Topic, set[str]] = {}

    async def all_told() -> bool:
        for topic in TOPICS:
            told[topic], _ = await known(stack, topic, isp.id)
        return [len(told[topic]) for topic in TOPICS] == [1, 2, 1, 2]

    await eventually(all_told)
    await done(platform, stack, isp.id, operation="deprovision", grace_seconds=0)

    async def taken_back() -> bool:
        return all([await known(stack, topic, isp.id) == (set(), told[topic]) for topic in TOPICS])

    await eventually(taken_back)
    # Nothing follows, whatever was on its way; and what is published again ends with the tombstones too.
    await all_handled(stack.kafka)
    await published(stack)
    for topic in TOPICS:
        status, said = await republish(stack, topic.owner, began)
        assert status == 0, said
    assert await taken_back()
    for service, topic in (("customer", CUSTOMER_SNAPSHOT), ("billing", BILLING_SUBSCRIPTION_SNAPSHOT)):
        rows = await asked(
            stack, service, "select key, value from journal where tenant_id = $1 and topic = $2", isp.id, topic.name
        )
        assert sorted((row["key"], row["value"]) for row in rows) == sorted((key, None) for key in told[topic])


async def asked(stack: Stack, service: str, sql: str, tenant: str, *args: Any) -> list[Any]:
    """Ask a service's database, past row-level security."""
    connection = await asyncpg.connect(databases(stack.server_url)[service])
    try:
        return list(await connection.fetch(sql, UUID(tenant), *args))
    finally:
        await connection.close()


async def waits(stack: Stack) -> bool:
    """Say whether somebody waits for who publishes snapshots, or for who deletes what they tell of."""
    connection = await asyncpg.connect(databases(stack.server_url)["customer"])
    try:
        return bool(
            await connection.fetchval(
                "select exists (select from pg_locks where locktype = 'advisory' and not granted"
                " and database = (select oid from pg_database where datname = current_database()))"
            )
        )
    finally:
        await connection.close()


async def test_a_snapshot_that_is_late_does_not_come_after_the_tombstone(
    stack: Stack, public: Api, platform: Api
) -> None:
    isp = await deploy(public, platform)
    customer = (await isp.api.send("POST", f"{V1}/customers", {"name": "Ada"})).expect(201)["id"]
    await reached(stack, CUSTOMER_SNAPSHOT, customer, 1)
    await all_handled(stack.kafka)
    ids = {"customer_id": customer, "tenant_id": isp.id}
    changed = CustomerUpdated.model_validate({**ids, "name": "Ada", "status": "active", "paperless_billing": False})
    leaves = DataDeletionRequested(tenant_id=UUID(isp.id), deployment_id=new_id(), step="delete_data")
    tenants = [UUID(isp.id)]
    async with service_in_process(stack, "customer") as service:
        renew = snapshots.SNAPSHOTS.subscription(service).handlers[CustomerUpdated]
        delete = departures.subscription(service).handlers[DataDeletionRequested]

        async def deleted() -> None:
            async with service.consumer_db.for_tenants(tenants) as tx:
                await delete(tx, received(leaves))

        async def renewed() -> None:
            async with service.consumer_db.for_tenants(tenants) as tx:
                await renew(tx, received(changed))

        # One is being written when the tenant leaves: the tombstone waits for it.
        async with service.consumer_db.for_tenants(tenants) as tx:
            await renew(tx, received(changed))
            leaving = asyncio.create_task(deleted())
            await eventually(lambda: waits(stack))
            assert not leaving.done()
        await leaving
        # One is begun meanwhile, of a customer who came at the last moment: it waits, and finds nothing to tell of.
        async with past_security(stack, "customer") as database:
            await database.execute(
                "insert into workspace (tenant_id, deployment_id, name, country, time_zone)"
                " values ($1, $2, 'Once more', 'US', 'UTC')",
                UUID(isp.id),
                new_id(),
            )
        (await isp.api.send("POST", f"{V1}/customers", {"name": "Late"})).expect(201)
        await all_handled(stack.kafka)
        async with service.consumer_db.for_tenants(tenants) as tx:
            late = await tx.fetchval("select customer_id from customer")
            await delete(tx, received(leaves))
            changed = changed.model_copy(update={"customer_id": late})
            renewing = asyncio.create_task(renewed())
            await eventually(lambda: waits(stack))
            assert not renewing.done()
        await renewing

    async def taken_back() -> bool:
        return await known(stack, CUSTOMER_SNAPSHOT, isp.id) == (set(), {customer, str(late)})

    await eventually(taken_back)
    await published(stack)
    assert await taken_back()
    told = [record for record in await read(stack, CUSTOMER_SNAPSHOT) if record.key == customer.encode()]
    assert [record.value is None for record in told] == [False, False, True]


async def command(stack: Stack, service: str) -> str:
    """Run the command for one service as an operator would, and return what it said."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "cli", "snapshots", "publish", "--service", service],
        env={**os.environ, "CONSUMER_DATABASE_URL": stack.database_url(service, "consumer"), "COLUMNS": "120"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def test_all_there_is_is_told_anew(stack: Stack, public: Api, platform: Api, tenant: Tenant) -> None:
    isp, left = await deploy(public, platform), await deploy(public, platform)
    lines = "".join(f"A-{number},Customer {number}\n" for number in range(2_500))  # more than are read at once
    await imported(isp.api, "external_reference,name\n" + lines)
    await settle_in(left)
    await settle_in(tenant)
    await settled(stack, left.id)
    await done(platform, stack, left.id, operation="deprovision", grace_seconds=0)
    await all_handled(stack.kafka)
    before = {topic: await ends(stack, topic) for topic in TOPICS}
    for topic, table in zip(TOPICS, ("tenant", "customer", "subscription", "settings"), strict=True):
        said = await command(stack, topic.owner)
        await published(stack)
        told = {}
        for record in await read(stack, topic, before[topic]):
            envelope, event = decode(record.headers, record.value)
            told[event.key] = (str(envelope.tenantid), envelope.aggregateversion, record.value is None)
        rows = await asked(
            stack,
            topic.owner,
            f"select tenant_id::text, {table}_id::text as key, version, {table}::text like '%deprovisioned%' as gone"
            f" from {table} where $1::uuid is not null",
            isp.id,
        )
        assert told == {row["key"]: (row["tenant_id"], row["version"], row["gone"]) for row in rows}
        assert f"{len(rows):,} snapshots" in said
        if topic is TENANT_SNAPSHOT:
            assert told[left.id][2]


async def test_what_changes_meanwhile_is_not_told_as_it_was(stack: Stack, tenant: Tenant) -> None:
    customer = (await tenant.api.send("POST", f"{V1}/customers", {"name": "Ada"})).expect(201)["id"]
    path = f"{V1}/customers/{customer}"
    working = asyncio.create_task(command(stack, "customer"))
    version = 1
    while not working.done():
        headers = {"If-Match": f'"{version}"'}
        (await tenant.api.send("PATCH", path, {"name": f"Ada {version}"}, headers=headers)).expect(200)
        version += 1
    await working
    await reached(stack, CUSTOMER_SNAPSHOT, customer, version)
    await published(stack)
    snapshot = await present(stack, CUSTOMER_SNAPSHOT, customer)
    assert snapshot is not None
    assert snapshot[0] == version
