"""What the services subscribe to, as their code says it, and whether they have handled all there is."""

import importlib

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from chassis.clock import SystemClock
from chassis.messaging.subscription import Subscription
from chassis.persistence.database import Database
from chassis.security.tokens import TokenVerifier
from chassis.security.vault import Vault
from chassis.service import Service
from chassis.settings import Settings
from deploy.roles import SERVICES
from tests.api import eventually


def subscriptions() -> dict[str, list[Subscription]]:
    """Return the subscriptions of each service."""
    settings, nowhere = Settings.model_construct(), Database("")
    vault = Vault(settings.secret_key.get_secret_value())
    found = {}
    for name in SERVICES:
        service = Service(name, settings, nowhere, nowhere, SystemClock(), TokenVerifier(""), vault)
        microservice = importlib.import_module(f"services.{name}.app").MICROSERVICE
        found[name] = list(microservice.subscriptions(service))
    return found


async def lag(kafka: str) -> dict[tuple[str, str], int]:
    """Return how many records each consumer group is behind on each topic, where it is."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    consumer: AIOKafkaConsumer[bytes, bytes] = AIOKafkaConsumer(bootstrap_servers=kafka)
    await admin.start()
    await consumer.start()
    behind: dict[tuple[str, str], int] = {}
    try:
        for subscription in (item for items in subscriptions().values() for item in items):
            committed = await admin.list_consumer_group_offsets(subscription.consumer)
            for topic in subscription.topics:
                places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
                begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
                done = {it: max(begins[it], committed[it].offset if it in committed else 0) for it in places}
                left = sum(ends[place] - done[place] for place in places)
                if left:
                    behind[subscription.consumer, topic.name] = left
    finally:
        await consumer.stop()
        await admin.close()
    return behind


async def all_handled(kafka: str) -> None:
    """Return once no consumer group is behind."""

    async def none_left() -> bool:
        return not await lag(kafka)

    await eventually(none_left)
