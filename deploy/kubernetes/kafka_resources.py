"""Kafka's topics and users as resources of the Strimzi operator: from the contracts, and from who may do what."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.security.acls import USERS, Resource, rules
from dotmac_contracts.topics import ALL, Topic

REPLICAS = 3
AUTOSCALER = "keda"
RECOVERY = "recovery"
_FOLDER = Path(__file__).parent / "kafka"
_HEAD = "# Written from {source} by `make contracts`.\n"


def files() -> dict[Path, str]:
    """Return what belongs in which file."""
    topics = [_topic(topic) for topic in ALL]
    return {
        _FOLDER / "topics.yaml": _written("dotmac_contracts.topics", topics),
        _FOLDER / "users.yaml": _written("deploy.security.acls", list(_users())),
    }


def _written(source: str, resources: list[dict[str, Any]]) -> str:
    return _HEAD.format(source=source) + yaml.safe_dump_all(resources, sort_keys=False)


def _topic(topic: Topic) -> dict[str, Any]:
    return _resource(
        "KafkaTopic",
        topic.name,
        {
            "partitions": topic.partitions,
            "replicas": REPLICAS,
            "config": topic.configuration,
        },
    )


def _users() -> Iterator[dict[str, Any]]:
    """Give the platform's processes with what their rules allow, and the two others that reach the broker."""
    for user in USERS:
        own = sorted(rule for rule in rules() if rule.user == user)
        yield _user(user, [_access(rule.resource, rule.name, rule.operation.name.title()) for rule in own])
    # It asks how far the consumers are behind.
    groups = sorted({rule.name for rule in rules() if rule.resource is Resource.GROUP})
    looked_at = [(Resource.TOPIC, topic.name) for topic in ALL] + [(Resource.GROUP, group) for group in groups]
    yield _user(AUTOSCALER, [_access(resource, name, "Describe") for resource, name in looked_at])
    # It empties the topics, and publishes for every service.
    yield _user(RECOVERY, [_access(Resource.TOPIC, topic.name, "Delete", "Write") for topic in ALL])


def _user(name: str, access: list[dict[str, Any]]) -> dict[str, Any]:
    password = {"valueFrom": {"secretKeyRef": {"name": f"{name}-kafka", "key": "password"}}}
    return _resource(
        "KafkaUser",
        name,
        {
            "authentication": {"type": "scram-sha-512", "password": password},
            "authorization": {"type": "simple", "acls": access},
        },
    )


def _access(resource: Resource, name: str, *operations: str) -> dict[str, Any]:
    kind = resource.name.lower()
    return {"resource": {"type": kind, "name": name, "patternType": "literal"}, "operations": list(operations)}


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"strimzi.io/cluster": "dotmac"}}
    return {"apiVersion": "kafka.strimzi.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
