"""A new system starts from the present: the last record of each key says all there is to know."""

from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy.stack.stack import Stack
from dotmac_contracts.billing import SubscriptionSnapshot
from dotmac_contracts.customer import CustomerSnapshot
from dotmac_contracts.envelope import Event, decode
from dotmac_contracts.tenant import TenantSnapshot
from dotmac_contracts.topics import BILLING_SUBSCRIPTION_SNAPSHOT, CUSTOMER_SNAPSHOT, TENANT_SNAPSHOT, Topic
from tests.api import Api, eventually
from tests.conftest import Tenant

V1 = "/api/v1"


async def present(stack: Stack, topic: Topic, key: str) -> tuple[int, Event] | None:
    """Return the last snapshot of a key, and its version, as a system reads it that never read before."""
    async with AIOKafkaConsumer(bootstrap_servers=stack.kafka) as consumer:
        places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        found = None
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    if record.key == key.encode():
                        envelope, event = decode(record.headers, record.value)
                        version = envelope.aggregateversion
                        assert found is None or version >= found[0], "a later snapshot says less"
                        found = version, event
        return found


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
