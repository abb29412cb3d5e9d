"""The examples, each as a process of its own, as whoever copies one runs it."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy.stack.processes import free_port
from deploy.stack.stack import Stack
from dotmac_contracts.topics import BILLING_INVOICE
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy, lasting
from tests.deployments import done, settled
from tests.integration.test_feed import created
from tests.integration.test_flow import accounts, billed

V1 = "/api/v1"
EXAMPLES = Path(__file__).parents[2] / "examples"


class Example:
    """A process, and the lines of JSON that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []

    async def follow(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))

    async def says(self, count: int) -> list[dict[str, Any]]:
        async def enough() -> bool:
            assert self.process.returncode is None, "it has ended"
            return len(self.said) >= count

        await eventually(enough)
        return self.said


@asynccontextmanager
async def running(name: str, *arguments: str, **environment: str) -> AsyncIterator[Example]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *arguments,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    example = Example(process)
    following = asyncio.create_task(example.follow())
    try:
        yield example
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await following


@pytest.fixture(scope="module")
async def isp(stack: Stack, public: Api, platform: Api) -> Tenant:
    deployed = await deploy(public, platform)
    return Tenant(deployed.id, deployed.slug, lasting(stack, deployed.api), deployed.deployment)


async def test_a_follower_of_the_feed_goes_on_where_it_was(stack: Stack, isp: Tenant, tmp_path: Path) -> None:
    arguments = [stack.gateway_url, "--place", str(tmp_path / "place"), "--type", "dotmac.customer.CustomerCreated"]
    first = await created(isp.api, 3)
    async with running("follow_feed.py", *arguments, DOTMAC_TOKEN=isp.api.token or "") as example:
        before = await example.says(3)
    second = await created(isp.api, 2)
    async with running("follow_feed.py", *arguments, DOTMAC_TOKEN=isp.api.token or "") as example:
        after = [said for said in await example.says(2) if said not in before]  # the last one may come again
    assert {said["data"]["customer_id"] for said in before} == {*first}
    assert {said["data"]["customer_id"] for said in after} == {*second}


async def test_a_receiver_of_webhooks_believes_what_is_signed(isp: Tenant) -> None:
    port = free_port()
    body = {"url": f"http://127.0.0.1:{port}/webhooks", "event_types": ["dotmac.customer.CustomerCreated"]}
    endpoint = (await isp.api.send("POST", f"{V1}/webhook-endpoints", body)).expect(201)
    secret = endpoint["secret"]
    async with running("receive_webhooks.py", "--port", str(port), WEBHOOK_SECRET=secret) as example:
        customers = await created(isp.api, 3)
        said = await example.says(3)
        assert {one["data"]["customer_id"] for one in said} == {*customers}
        async with isp.api.http.post(body["url"], json={"id": "forged"}) as answer:
            assert answer.status == 401
    (await isp.api.send("DELETE", f"{V1}/webhook-endpoints/{endpoint['id']}")).expect(204)


async def begin_at_the_end(kafka: str, group: str) -> None:
    """Let a consumer group begin after the invoices of all tests before, which FastStream would take one by one."""
    places = [TopicPartition(BILLING_INVOICE.name, number) for number in range(BILLING_INVOICE.partitions)]
    async with AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False) as consumer:
        consumer.assign(places)
        await consumer.commit(await consumer.end_offsets(places))


async def test_invoices_reach_who_reads_kafka_with_other_libraries(stack: Stack, isp: Tenant) -> None:
    (customer, *_) = await created(isp.api, 1)
    await accounts(isp.api, 1)

    async def subscribed() -> bool:
        order = {"customer_id": customer, "plan_code": "FIBER", "started_on": "2026-01-01"}
        return (await isp.api.send("POST", f"{V1}/subscriptions", order)).status in (201, 409)

    await eventually(subscribed)
    await begin_at_the_end(stack.kafka, f"invoices-of-{isp.id}")
    run = await billed(isp.api, "2026-01")
    told = []
    for name in ("consume_with_faststream.py", "consume_with_cloudevents.py"):
        async with running(name, isp.id, KAFKA_BOOTSTRAP_SERVERS=stack.kafka) as example:
            (said,) = await example.says(1)
            told.append(said)
    assert told[0] == told[1]
    assert told[0]["number"] == "INV-000001"
    assert run["total"]["amount_minor"] == told[0]["total"] == 8000


async def test_who_begins_with_the_present_forgets_a_tenant_that_left(stack: Stack, public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    for name in ("Ada", "Grace"):
        (await isp.api.send("POST", f"{V1}/customers", {"name": name})).expect(201)
    async with running("present_customers.py", isp.id, KAFKA_BOOTSTRAP_SERVERS=stack.kafka) as example:

        async def says(customers: list[str]) -> None:
            async def so() -> bool:
                return example.said[-1:] == [{"customers": customers}]

            await eventually(so)

        await says(["Ada", "Grace"])
        await done(platform, stack, isp.id, operation="deprovision", grace_seconds=0)
        await says([])
