"""The broker: topics made from the contracts, the producer of what is published, and whether it answers."""

import asyncio
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import GroupIdNotFound, KafkaError, NonEmptyGroup, TopicAlreadyExistsError, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest, DescribeGroupsRequest_v2
from aiokafka.protocol.api import Request

from chassis.messaging.security import client_security
from chassis.settings import Settings
from dotmac_contracts.topics import ALL

_NOT_SECURED: Mapping[str, Any] = MappingProxyType({})
_END = -1  # of a partition, in the protocol
_LOOK_SECONDS = 0.05


class BrokerError(Exception):
    """The broker refused or does not answer."""


async def ensure_topics(
    bootstrap_servers: str, *, replication_factor: int = 1, security: Mapping[str, Any] = _NOT_SECURED
) -> list[str]:
    """Create the topics of the contracts that don't exist yet, and return their names.

    security: what `client_security` makes of the settings.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, **security)
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
                    topic_configs=topic.configuration,
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


def producer(settings: Settings) -> AIOKafkaProducer:
    """Return a producer, not started yet, that keeps the order of a key and loses nothing it has acknowledged."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        **client_security(settings),
        acks="all",
        enable_idempotence=settings.kafka_idempotence,
        max_batch_size=256 * 1024,
        request_timeout_ms=15_000,
    )


async def forget_records(bootstrap_servers: str, *, security: Mapping[str, Any] = _NOT_SECURED) -> None:
    """Delete every record of the contracts' topics, whoever may not have read it yet. The topics stay."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, **security)
    try:
        await admin.start()
        described = await admin.describe_topics([topic.name for topic in ALL])
        everything = RecordsToDelete(before_offset=_END)
        await admin.delete_records(
            {
                TopicPartition(topic["topic"], partition["partition"]): everything
                for topic in described
                for partition in topic["partitions"]
            }
        )
    except (KafkaError, OSError) as error:
        raise BrokerError(f"the records at {bootstrap_servers} can't be deleted: {error!r}") from error
    finally:
        await admin.close()


async def forget_groups(
    bootstrap_servers: str, suffix: str, *, security: Mapping[str, Any] = _NOT_SECURED
) -> list[str]:
    """Delete the consumer groups whose names end so; return those that can't be, since they have members still."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, **security)
    left = []
    try:
        await admin.start()
        groups = {name for name, *_ in await admin.list_consumer_groups() if name.endswith(suffix)}
        for group in sorted(groups):
            coordinator = await admin.find_coordinator(group)
            answer = await admin._send_request(DeleteGroupsRequest([group]), coordinator)
            for _, code in answer.results:
                if code == NonEmptyGroup.errno:
                    left.append(group)
                elif code not in (0, GroupIdNotFound.errno):
                    raise BrokerError(f"the group {group} can't be deleted: {for_code(code).__name__}")
    except (KafkaError, OSError) as error:
        raise BrokerError(f"the broker at {bootstrap_servers} does not answer: {error!r}") from error
    finally:
        await admin.close()
    return left


async def groups_behind(
    bootstrap_servers: str,
    is_meant: Callable[[str], bool],
    seconds: float,
    *,
    security: Mapping[str, Any] = _NOT_SECURED,
) -> list[str]:
    """Return the consumer groups that have not yet taken, so many seconds later, what is in their topics now.

    One of which nobody can tell what it reads, since it has no members or gets others just now, is behind as well.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, **security)
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, **security)
    try:
        await admin.start()
        await reader.start()
        names = sorted(name for name, *_ in await admin.list_consumer_groups() if is_meant(name))
        topics = await _subscriptions(admin, names)
        ends = await _ends(admin, reader, {topic for those in topics.values() for topic in those})
        until = time.monotonic() + seconds
        while True:
            behind = [name for name in names if not topics.get(name) or not await _has_taken(admin, name, topics, ends)]
            if not behind or time.monotonic() >= until:
                return behind
            await asyncio.sleep(_LOOK_SECONDS)
    except (KafkaError, OSError) as error:
        raise BrokerError(f"the broker at {bootstrap_servers} does not answer: {error!r}") from error
    finally:
        await reader.stop()
        await admin.close()


async def _subscriptions(admin: AIOKafkaAdminClient, groups: list[str]) -> dict[str, set[str]]:
    """Return what the members of groups read; of a group that is not settled, nothing."""
    found: dict[str, set[str]] = {}
    for group in groups:
        answer = await admin._send_request(_Description([group]), await admin.find_coordinator(group))
        for _, name, state, _, _, members in answer.groups:
            if state == "Stable":
                read = (ConsumerProtocol.METADATA.decode(metadata).subscription for _, _, _, metadata, _ in members)
                found[name] = {topic for topics in read for topic in topics}
    return found


class _Description(Request[DescribeGroupsRequest_v2]):  # type: ignore[misc]
    """Asks for groups in the last version whose answer the client can read."""

    API_KEY = DescribeGroupsRequest_v2.API_KEY

    def __init__(self, groups: list[str]) -> None:
        self._groups = groups

    def build(self, request_struct_class: type[DescribeGroupsRequest_v2]) -> DescribeGroupsRequest_v2:
        return request_struct_class(self._groups)


async def _ends(
    admin: AIOKafkaAdminClient, reader: "AIOKafkaConsumer[bytes, bytes]", topics: set[str]
) -> dict[TopicPartition, int]:
    """Return the end of each partition that has any record."""
    described = await admin.describe_topics(sorted(topics)) if topics else []
    partitions = [
        TopicPartition(topic["topic"], partition["partition"])
        for topic in described
        for partition in topic["partitions"]
    ]
    first, ends = await reader.beginning_offsets(partitions), await reader.end_offsets(partitions)
    return {partition: end for partition, end in ends.items() if end > first[partition]}


async def _has_taken(
    admin: AIOKafkaAdminClient, group: str, topics: Mapping[str, set[str]], ends: Mapping[TopicPartition, int]
) -> bool:
    taken = await admin.list_consumer_group_offsets(group)
    return all(
        partition in taken and taken[partition].offset >= end
        for partition, end in ends.items()
        if partition.topic in topics[group]
    )


async def ping(bootstrap_servers: str, *, security: Mapping[str, Any] = _NOT_SECURED) -> None:
    """Return if the broker answers; BrokerError otherwise."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=2000, **security)
    try:
        await admin.start()
    except (KafkaError, OSError) as error:
        raise BrokerError(f"the broker at {bootstrap_servers} does not answer: {error!r}") from error
    finally:
        await admin.close()
