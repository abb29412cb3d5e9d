"""Published events that are published again: they come with their own ids and in order, and change nothing twice."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from chassis.messaging import journal
from chassis.messaging.consumer import INBOX_RETENTION_DAYS
from chassis.messaging.relay import JOURNAL_RETENTION_DAYS
from chassis.settings import Settings
from deploy.backup import databases
from deploy.roles import SERVICES
from deploy.stack.stack import Stack
from dotmac_contracts import topics
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy
from tests.integration.test_flow import accounts, imported
from tests.subscriptions import all_handled

V1 = "/api/v1"


@pytest.fixture
async def customers(stack: Stack) -> AsyncIterator["AIOKafkaConsumer[bytes, bytes]"]:
    """An outside system at the end of the customers' topic."""
    topic = topics.CUSTOMER
    async with AIOKafkaConsumer(bootstrap_servers=stack.kafka) as consumer:
        consumer.assign([TopicPartition(topic.name, number) for number in range(topic.partitions)])
        await consumer.seek_to_end()
        for partition in consumer.assignment():
            await consumer.position(partition)  # or it would be found out only when it first reads
        yield consumer


async def republish(stack: Stack, service: str, since: datetime) -> tuple[int, str]:
    """Run the command for one service as an operator would; return its status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "cli", "journal", "republish", "--since", since.isoformat()],
        env={
            **os.environ,
            "RELAY_DATABASE_URL": stack.database_url(service, "relay"),
            "KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def read(consumer: "AIOKafkaConsumer[bytes, bytes]", tenant: Tenant, count: int) -> list[Any]:
    """Return the next events of a tenant, once there are so many."""
    found: list[Any] = []

    async def enough() -> bool:
        for records in (await consumer.getmany(timeout_ms=100)).values():
            found.extend(record for record in records if dict(record.headers)["ce_tenantid"].decode() == tenant.id)
        return len(found) >= count

    await eventually(enough)
    return found


def told(records: list[Any]) -> dict[bytes, list[tuple[Any, ...]]]:
    """Return what was told of each key, in order: headers (the id among them) and value."""
    found: dict[bytes, list[tuple[Any, ...]]] = {}
    for record in records:
        found.setdefault(record.key, []).append((tuple(record.headers), record.value))
    return found


async def rows(stack: Stack) -> dict[str, int]:
    """Count the rows of every table of every service, but for those on their way."""
    counts = {}
    for service, url in databases(stack.server_url).items():
        connection = await asyncpg.connect(url)
        try:
            tables = await connection.fetch(
                "select relname from pg_class where relkind in ('r', 'p') and relnamespace"
                " = 'public'::regnamespace and not relispartition"
            )
            for (table,) in tables:
                counts[f"{service}.{table}"] = await connection.fetchval(f'select count(*) from "{table}"')
        finally:
            await connection.close()
    return counts


async def published(stack: Stack) -> None:
    """Return once every outbox is empty."""

    async def empty() -> bool:
        counts = await rows(stack)
        return not any(counts[f"{service}.outbox"] for service in SERVICES)

    await eventually(empty)


async def test_events_come_again_with_their_ids_and_in_order_and_have_no_effect(
    stack: Stack, customers: "AIOKafkaConsumer[bytes, bytes]", public: Api, platform: Api
) -> None:
    began = datetime.now(UTC)
    tenant = await deploy(public, platform)
    await imported(tenant.api, "external_reference,name\n" + "".join(f"J-{n},Customer {n}\n" for n in range(200)))
    listed = (await tenant.api.send("GET", f"{V1}/customers", params={"limit": "20"})).expect(200)["items"]
    for customer in listed:
        headers = {"If-Match": f'"{customer["version"]}"'}
        path = f"{V1}/customers/{customer['id']}"
        (await tenant.api.send("PATCH", path, {"name": "Renamed"}, headers=headers)).expect(200)
    await accounts(tenant.api, 200)
    await all_handled(stack.kafka)
    await published(stack)
    first = await read(customers, tenant, 220)
    before = await rows(stack)

    for service in SERVICES:
        status, said = await republish(stack, service, began)
        assert status == 0, said
    again = await read(customers, tenant, 220)
    assert told(again) == told(first)
    assert any(len(events) > 1 for events in told(again).values())
    await all_handled(stack.kafka)
    await published(stack)
    assert await rows(stack) == before


async def test_a_consumer_that_lost_its_state_catches_up(stack: Stack, public: Api, platform: Api) -> None:
    began = datetime.now(UTC)
    tenant = await deploy(public, platform)
    await imported(tenant.api, "external_reference,name\n" + "".join(f"L-{n},Customer {n}\n" for n in range(50)))
    await accounts(tenant.api, 50)
    await published(stack)
    await all_handled(stack.kafka)
    urls = databases(stack.server_url)
    customer, billing = await asyncpg.connect(urls["customer"]), await asyncpg.connect(urls["billing"])
    try:
        lost = await customer.fetch("select event_id from journal where tenant_id = $1", UUID(tenant.id))
        ids = [row["event_id"] for row in lost]
        forgotten = await billing.execute(
            "delete from inbox where consumer = 'billing-customers' and event_id = any($1)", ids
        )
        assert forgotten == "DELETE 50"
        await billing.execute("delete from billing_account where tenant_id = $1", UUID(tenant.id))
        assert (await tenant.api.send("GET", f"{V1}/billing-accounts/summary")).expect(200)["count"] == 0
        status, said = await republish(stack, "customer", began)
        assert status == 0, said
        await accounts(tenant.api, 50)
        await all_handled(stack.kafka)
        assert (await tenant.api.send("GET", f"{V1}/billing-accounts/summary")).expect(200)["count"] == 50
    finally:
        await customer.close()
        await billing.close()


async def test_what_is_new_meanwhile_follows_what_is_repeated(
    stack: Stack, customers: "AIOKafkaConsumer[bytes, bytes]", public: Api, platform: Api
) -> None:
    began = datetime.now(UTC)
    tenant = await deploy(public, platform)
    await imported(tenant.api, "external_reference,name\n" + "".join(f"N-{n},Customer {n}\n" for n in range(3000)))
    await accounts(tenant.api, 3000)
    await all_handled(stack.kafka)  # by the customer service as well, which tells snapshots then
    await published(stack)
    await read(customers, tenant, 3000)
    listed = (await tenant.api.send("GET", f"{V1}/customers", params={"limit": "50"})).expect(200)["items"]

    async def rename(customer: dict[str, Any]) -> None:
        path = f"{V1}/customers/{customer['id']}"
        for version in (1, 2):
            headers = {"If-Match": f'"{version}"'}
            (await tenant.api.send("PATCH", path, {"name": f"New {version}"}, headers=headers)).expect(200)

    reached: list[int] = []

    async def progress(count: int, _moment: datetime) -> None:
        reached.append(count)
        if len(reached) == 1:  # the first page is out, others are to come
            await asyncio.gather(*(rename(customer) for customer in listed))
            assert await waiting() == 2 * len(listed), "the relay stands by"

    async def waiting() -> int:
        connection = await asyncpg.connect(databases(stack.server_url)["customer"])
        try:
            count: int = await connection.fetchval("select count(*) from outbox where tenant_id = $1", UUID(tenant.id))
            return count
        finally:
            await connection.close()

    settings = Settings(kafka_bootstrap_servers=stack.kafka)
    count = await journal.republish(stack.database_url("customer", "relay"), settings, began, progress)
    assert len(reached) > 1
    records = await read(customers, tenant, 3000 + 2 * len(listed))
    assert count >= 3000
    for key, events in told(records).items():
        versions = [int(dict(headers)["ce_aggregateversion"]) for headers, _ in events]
        assert versions == sorted(versions), f"{key!r} went back in time: {versions}"


async def test_no_further_back_than_inboxes_remember(stack: Stack) -> None:
    # An event of then may be read again as late as its topic keeps it.
    longest = max(timedelta(milliseconds=topic.retention_ms) for topic in topics.ALL if not topic.compacted)
    assert journal.REACH + longest <= timedelta(days=INBOX_RETENTION_DAYS)
    assert timedelta(days=JOURNAL_RETENTION_DAYS) <= journal.REACH
    now = datetime.now(UTC)
    journal.check_reach(now - journal.REACH, now)
    status, said = await republish(stack, "customer", now - journal.REACH - timedelta(minutes=1))
    assert status == 1
    assert "too far back" in said
    status, said = await republish(stack, "customer", now.replace(tzinfo=None))
    assert status == 2
    assert "no offset" in said


async def test_the_relay_leads_again_when_whoever_took_its_place_is_killed(stack: Stack, tenant: Tenant) -> None:
    """SIGKILL leaves the lock to PostgreSQL, which lets go of it with the connection."""
    script = (
        "import asyncio, sys\nfrom chassis.messaging.relay import standing_in\n"
        "async def main():\n    async with standing_in(sys.argv[1]):\n        print('leads', flush=True)\n"
        "        await asyncio.Event().wait()\nasyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", script, stack.database_url("customer", "relay")], stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    connection = await asyncpg.connect(databases(stack.server_url)["customer"])
    try:
        assert await process.stdout.readline() == b"leads\n"
        customer = (await tenant.api.send("POST", f"{V1}/customers", {"name": "Waits"})).expect(201)
        waiting = "select count(*) from outbox where key = $1"
        assert await connection.fetchval(waiting, customer["id"]) == 1
        process.kill()

        async def gone() -> bool:
            return bool(await connection.fetchval(waiting, customer["id"]) == 0)

        await eventually(gone)
        row = await connection.fetchrow("select headers from journal where key = $1", customer["id"])
        assert json.loads(row["headers"])["ce_aggregateversion"] == "1"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await connection.close()
