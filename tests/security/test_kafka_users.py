"""The Kafka users of the Kubernetes manifests can do what they are for, and no more, on a Kafka that checks them."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

import pytest
import yaml
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.admin import CreateAclsRequest, DescribeAclsRequest

from chassis.messaging import broker
from chassis.messaging.broker import BrokerError, ensure_topics, forget_records
from chassis.messaging.security import client_security
from chassis.security.following import Follower
from chassis.security.revocations import Revocations
from chassis.settings import Settings
from deploy.kubernetes import kafka_resources
from deploy.security.acls import VERIFIERS
from deploy.stack.folder import Folder
from deploy.stack.processes import free_port
from dotmac_contracts import topics
from dotmac_contracts.envelope import Envelope, Record, encode
from dotmac_contracts.tenant import TokensRevoked
from tests.api import eventually
from tests.security.secured import ADMINISTRATOR, Authority, SecuredKafka

# As the protocol counts.
KINDS = {"topic": 2, "group": 3}
OPERATIONS = {"Read": 3, "Write": 4, "Delete": 6, "Describe": 8}
LITERAL, ALLOW = 3, 3

USERS = {
    user["metadata"]["name"]: user["spec"]["authorization"]["acls"]
    for path, content in kafka_resources.files().items()
    if path.name == "users.yaml"
    for user in yaml.safe_load_all(content)
}


@pytest.fixture(scope="module")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecuredKafka]:
    path = tmp_path_factory.mktemp("users")
    folder = Folder(path)
    await folder.claim(lambda _message: None)
    passwords = {name: secrets.token_urlsafe(32) for name in (*USERS, ADMINISTRATOR)}
    running = SecuredKafka(folder, free_port(), Authority(path / "certificates"), passwords)
    try:
        await running.start()
        await ensure_topics(running.bootstrap_servers, security=running.security)
        await allow(running)
        yield running
    finally:
        await running.stop()
        folder.release()


async def allow(kafka: SecuredKafka) -> None:
    """Write the users' access lists, as their operator would."""
    client = AIOKafkaClient(bootstrap_servers=kafka.bootstrap_servers, **kafka.security)
    await client.bootstrap()
    try:
        for user, accesses in USERS.items():
            for access in accesses:
                kind, name = KINDS[access["resource"]["type"]], access["resource"]["name"]
                for operation in access["operations"]:
                    entry = (kind, name, LITERAL, f"User:{user}", "*", OPERATIONS[operation], ALLOW)
                    answer = await client.send(client.get_random_node(), CreateAclsRequest(*entry))
                    assert [code for code, _ in answer.creation_responses] == [0]
        last = DescribeAclsRequest(kind, name, LITERAL, f"User:{user}", "*", OPERATIONS[operation], ALLOW)

        async def known() -> bool:  # to the broker, which is told by its controller, of one after the other
            return bool((await client.send(client.get_random_node(), last)).resources)

        await eventually(known)
    finally:
        await client.close()


def settings(kafka: SecuredKafka, user: str) -> Settings:
    return Settings.model_validate(kafka.settings(user).model_dump())


async def publish(kafka: SecuredKafka, user: str, topic: str, record: Record | None = None) -> None:
    producer = broker.producer(settings(kafka, user))
    try:
        await producer.start()
        if record:
            await producer.send_and_wait(topic, record.value, record.key, headers=record.headers)
        else:
            await producer.send_and_wait(topic, b"value", b"key")
    finally:
        await producer.stop()


@asynccontextmanager
async def looking(kafka: SecuredKafka, user: str) -> AsyncIterator["AIOKafkaConsumer[bytes, bytes]"]:
    security = client_security(kafka.settings(user))
    async with AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, **security) as consumer:
        yield consumer


async def ends(kafka: SecuredKafka, user: str, topic: topics.Topic) -> tuple[int, int]:
    """Return how many records of a topic there were ever, and how many of them are gone."""
    places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    async with looking(kafka, user) as consumer:
        return (
            sum((await consumer.end_offsets(places)).values()),
            sum((await consumer.beginning_offsets(places)).values()),
        )


async def test_the_recovery_empties_every_topic_and_publishes_for_every_service(kafka: SecuredKafka) -> None:
    for topic in topics.ALL:
        await publish(kafka, "recovery", topic.name)
    security = client_security(kafka.settings("recovery"))
    assert await ensure_topics(kafka.bootstrap_servers, security=security) == []
    await forget_records(kafka.bootstrap_servers, security=security)
    for topic in topics.ALL:
        ever, gone = await ends(kafka, ADMINISTRATOR, topic)
        assert ever == gone > 0
        await publish(kafka, "recovery", topic.name)


async def looked_at(admin: AIOKafkaAdminClient, group: str) -> bool:
    try:
        await admin.list_consumer_group_offsets(group)
    except GroupCoordinatorNotAvailableError:  # the broker makes its own topic when it is first asked
        return False
    return True


async def test_the_autoscaler_sees_how_far_consumers_are_and_no_event(kafka: SecuredKafka) -> None:
    security = client_security(kafka.settings("keda"))
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers, **security)
    await admin.start()
    try:
        for access in USERS["keda"]:
            if access["resource"]["type"] == "group":
                await eventually(lambda name=access["resource"]["name"]: looked_at(admin, name))
    finally:
        await admin.close()
    for topic in topics.ALL:
        await ends(kafka, "keda", topic)
    await publish(kafka, "recovery", topics.CUSTOMER.name)
    async with looking(kafka, "keda") as consumer:
        consumer.assign([TopicPartition(topics.CUSTOMER.name, number) for number in range(topics.CUSTOMER.partitions)])
        await consumer.seek_to_beginning()
        with pytest.raises(TopicAuthorizationFailedError):
            await consumer.getone()
    with pytest.raises(ClusterAuthorizationFailedError):  # it may write to no topic at all
        await publish(kafka, "keda", topics.CUSTOMER.name)


@pytest.mark.parametrize("user", ["keda", "customer", "billing"])
async def test_nobody_else_deletes_records(kafka: SecuredKafka, user: str) -> None:
    with pytest.raises((BrokerError, KafkaError)):
        await forget_records(kafka.bootstrap_servers, security=client_security(kafka.settings(user)))


@pytest.mark.parametrize("user", VERIFIERS)
async def test_who_verifies_tokens_learns_which_are_revoked_and_which_tenants_are_closed_and_nothing_else(
    kafka: SecuredKafka, user: str
) -> None:
    told = {topics.TENANT_SESSION.name, topics.TENANT_SNAPSHOT.name}
    refused: type[KafkaError] = ClusterAuthorizationFailedError  # it may write to no topic at all
    if user == "gateway":  # it sends requests on, and so learns where to as well; and it tells how many they are
        told |= {topics.PROVISIONING_ROUTE_SNAPSHOT.name, topics.GATEWAY_QUOTA.name}
        refused = TopicAuthorizationFailedError
    async with looking(kafka, user) as consumer:
        assert await consumer.topics() == told
    revocations = Revocations()
    following = Follower(user, kafka.settings(user), revocations)
    await following.start()
    try:
        event = TokensRevoked(user_id=uuid4(), tenant_id=uuid4(), issued_before=datetime.now(UTC))
        envelope = Envelope(
            uuid4(), "/services/tenant", event.TYPE, datetime.now(UTC), event.key, event.tenant_id, aggregateversion=1
        )
        record = encode(event, envelope)
        await publish(kafka, "tenant", topics.TENANT_SESSION.name)  # unreadable: it passes by
        await publish(kafka, "tenant", record.topic, record)

        async def learnt() -> bool:
            return str(event.user_id) in revocations._users

        await eventually(learnt)
    finally:
        await following.stop()
    with pytest.raises(refused):
        await publish(kafka, user, topics.TENANT_SESSION.name)
