"""The broker: topics made from the contracts, and whether it answers."""

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from dotmac_contracts.topics import ALL


class BrokerError(Exception):
    """The broker refused or does not answer."""


async def ensure_topics(bootstrap_servers: str, *, replication_factor: int = 1) -> list[str]:
    """Create the topics of the contracts that don't exist yet, and return their names."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        await admin.start()
        existing = set(await admin.list_topics())
        missing = [topic for topic in ALL if topic.name not in existing]
        if not missing:
            return []
        answer = await admin.create_topics(
            [
                NewTopic(
                    topic.name,
                    topic.partitions,
                    replication_factor,
                    topic_configs={"retention.ms": str(topic.retention_ms), "cleanup.policy": "delete"},
                )
                for topic in missing
            ]
        )
        for name, code, *rest in answer.topic_errors:
            if code not in (0, TopicAlreadyExistsError.errno):
                raise BrokerError(f"topic {name} can't be created: {for_code(code).__name__} {rest}")
        return [topic.name for topic in missing]
    except (KafkaError, OSError) as error:
        raise BrokerError(f"the broker at {bootstrap_servers} does not answer: {error!r}") from error
    finally:
        await admin.close()


async def ping(bootstrap_servers: str) -> None:
    """Return if the broker answers; BrokerError otherwise."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=2000)
    try:
        await admin.start()
    except (KafkaError, OSError) as error:
        raise BrokerError(f"the broker at {bootstrap_servers} does not answer: {error!r}") from error
    finally:
        await admin.close()
