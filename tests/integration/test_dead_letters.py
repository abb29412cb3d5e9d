"""Dead letters, as an administrator of the platform repairs them: in every service the same."""

from datetime import datetime
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaProducer

from chassis.ids import PLATFORM_TENANT
from chassis.security.scopes import PLATFORM_ROLES
from chassis.security.tokens import TokenIssuer
from deploy.roles import SERVICES
from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.conftest import Tenant
from tests.subscriptions import subscriptions

V1 = "/api/v1"
TOPICS = ("provisioning.deployment.v1", "tenant.deployment.v1", "tenant.tenant.v1")
"""Together read by every service."""


async def letters(platform: Api, service: str, key: str) -> list[Any]:
    """Return the open letters of a key, page after page."""
    found, params = [], {"limit": "2"}
    while True:
        page = (await platform.send("GET", f"{V1}/{service}-dead-letters", params=params)).expect(200)
        found += [item for item in page["items"] if item["key"] == key]
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]


async def test_an_administrator_reads_replays_and_discards_them(stack: Stack, platform: Api) -> None:
    key = str(uuid4())
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka) as producer:
        for topic in TOPICS:
            for value in (b"{no json", b"{neither"):
                await producer.send_and_wait(topic, value, key.encode(), headers=[("ce_type", b"dotmac.test.Broken")])
    for service in SERVICES:
        await _repaired(stack, platform, service, key)


async def _repaired(stack: Stack, platform: Api, service: str, key: str) -> None:
    readers = sum(topic.name in TOPICS for item in subscriptions()[service] for topic in item.topics)

    async def two_of_each_reader() -> list[Any] | None:
        found = await letters(platform, service, key)
        return found if len(found) == 2 * readers else None

    first, *others = await eventually(two_of_each_reader)
    assert (first["event_type"], first["attempts"]) == ("dotmac.test.Broken", 1)
    assert "ce_specversion" in first["reason"]
    params = {"consumer": first["consumer"], "limit": "200"}
    of_consumer = (await platform.send("GET", f"{V1}/{service}-dead-letters", params=params)).expect(200)["items"]
    assert {item["consumer"] for item in of_consumer} == {first["consumer"]}

    path = f"{V1}/{service}-dead-letters/{first['id']}"
    shown = (await platform.send("GET", path)).expect(200)
    assert (shown["value"], shown["headers"]) == ("e25vIGpzb24=", {"ce_type": "dotmac.test.Broken"})
    assert shown["actions"] == []
    # It may be of a customer: who is to judge it sees it, and who only looks on does not.
    issuer = TokenIssuer(stack.jwt_secret_key)
    onlooker = platform.as_(issuer.issue(str(uuid4()), PLATFORM_TENANT, PLATFORM_ROLES["readonly"]))
    assert (await onlooker.send("GET", path)).expect(200) == {**shown, "value": None}

    asked = (await platform.send("POST", f"{path}/replay")).expect(200)
    assert [action["action"] for action in asked["actions"]] == ["replay"]

    async def tried() -> bool:
        return bool((await platform.send("GET", path)).expect(200)["attempts"] == 2)

    await eventually(tried)  # in vain: it still can't be read
    given_up = (await platform.send("POST", f"{path}/discard")).expect(200)
    assert given_up["resolution"] == "discarded"
    assert [action["action"] for action in given_up["actions"]] == ["replay", "discard"]
    assert len({action["principal"] for action in given_up["actions"]}) == 1
    assert all(datetime.fromisoformat(action["at"]).tzinfo for action in given_up["actions"])
    for again in ("discard", "replay"):
        (await platform.send("POST", f"{path}/{again}")).problem(409, "wrong-state")
    assert (await platform.send("GET", path)).expect(200)["actions"] == given_up["actions"]

    for item in others:
        (await platform.send("POST", f"{V1}/{service}-dead-letters/{item['id']}/discard")).expect(200)
    assert await letters(platform, service, key) == []


async def test_one_that_does_not_exist_is_not_found(platform: Api) -> None:
    path = f"{V1}/billing-dead-letters/{2**62}"
    for method, end in (("GET", ""), ("POST", "/replay"), ("POST", "/discard")):
        (await platform.send(method, path + end)).problem(404, "not-found")
    (await platform.send("GET", f"{V1}/billing-dead-letters/0")).problem(422)


async def test_they_are_none_of_a_tenants_business(tenant: Tenant) -> None:
    for service in SERVICES:
        (await tenant.api.send("GET", f"{V1}/{service}-dead-letters")).problem(403, "missing-scope")
