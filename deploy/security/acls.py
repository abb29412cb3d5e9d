"""Who may do what at the broker, from the topics' owners and the services' subscriptions.

`python -m deploy.security.acls` prints the access list; with `--apply` it makes the broker's lists of these users
the same, as the administrator that `KAFKA_…` signs in. A service signs in under its own name; its API, where that is
a process of its own, as `<service>-api`.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from importlib import import_module

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest
from rich.console import Console
from rich.table import Table

from chassis.clock import SystemClock
from chassis.messaging.security import client_security
from chassis.persistence.database import Database
from chassis.security.tokens import TokenVerifier
from chassis.security.vault import Vault
from chassis.service import Microservice, Service
from chassis.settings import KafkaSettings, Settings
from deploy.roles import SERVICES
from dotmac_contracts.topics import ALL, PROVISIONING_ROUTE_SNAPSHOT, TENANT_SESSION, TENANT_SNAPSHOT


class Resource(IntEnum):
    """What a rule is about, as the protocol counts."""

    TOPIC = 2
    GROUP = 3


class Operation(IntEnum):
    """What may be done, as the protocol counts; each includes looking at the thing itself."""

    READ = 3
    WRITE = 4


_ANY, _LITERAL, _ALLOW = 1, 3, 3
_ANY_HOST = "*"


class Refused(Exception):
    """The broker did not take the lists; the message says why."""


@dataclass(frozen=True, order=True)
class Rule:
    """A user may do this with that."""

    user: str
    resource: Resource
    name: str
    operation: Operation

    @property
    def principal(self) -> str:
        return f"User:{self.user}"


VERIFIERS = ("gateway", *(f"{service}-api" for service in SERVICES))
"""The users of processes that verify tokens, and so learn which are revoked and which tenants closed."""
USERS = (*SERVICES, *VERIFIERS)


def rules() -> frozenset[Rule]:
    """Return all that the services need: to write what they own, to read what they subscribe to, in their groups.

    Whoever verifies tokens reads which are revoked, and which tenants are closed, in no group: the gateway, a service,
    and its API where it runs apart. The gateway reads where tenants are as well, and tells how much they call. An
    idempotent producer needs no more than to write (since Kafka 3.0), and nobody else creates topics.
    """
    told = (TENANT_SESSION, TENANT_SNAPSHOT)
    verify = (Rule(user, Resource.TOPIC, topic.name, Operation.READ) for user in USERS for topic in told)
    places = Rule("gateway", Resource.TOPIC, PROVISIONING_ROUTE_SNAPSHOT.name, Operation.READ)
    owned = (Rule(topic.owner, Resource.TOPIC, topic.name, Operation.WRITE) for topic in ALL)
    return frozenset((*verify, places, *owned, *(rule for service in SERVICES for rule in _of(service))))


def _of(service: str) -> Iterator[Rule]:
    microservice: Microservice = import_module(f"services.{service}.app").MICROSERVICE
    for subscription in microservice.subscriptions(_standing_still(service)):
        yield Rule(service, Resource.GROUP, subscription.consumer, Operation.READ)
        for topic in subscription.topics:
            yield Rule(service, Resource.TOPIC, topic.name, Operation.READ)


def _standing_still(name: str) -> Service:
    """Return a service whose parts are not connected: enough for it to say what it subscribes to."""
    database = Database("")
    return Service(
        name, Settings.model_construct(), database, database, SystemClock(), TokenVerifier(""), Vault("unused")
    )


async def apply(settings: KafkaSettings) -> tuple[frozenset[Rule], frozenset[Rule]]:
    """Make the broker's lists of these users the same as `rules`; return what was added and taken away."""
    client = AIOKafkaClient(bootstrap_servers=settings.kafka_bootstrap_servers, **client_security(settings))
    try:
        await client.bootstrap()
        wanted, found = rules(), await _found(client)
        for rule in wanted - found:
            await _create(client, rule)
        for rule in found - wanted:
            await _delete(client, rule)
        return wanted - found, found - wanted
    except (KafkaError, OSError) as error:
        raise Refused(f"the broker at {settings.kafka_bootstrap_servers} does not take them: {error!r}") from error
    finally:
        await client.close()


async def _found(client: AIOKafkaClient) -> frozenset[Rule]:
    """Return what the broker allows these users now; Refused if that is more than rules of ours can say."""
    found = set()
    for user in USERS:
        asked = DescribeAclsRequest(_ANY, None, _ANY, f"User:{user}", None, _ANY, _ANY)
        answer = await client.send(client.get_random_node(), asked)
        _check(answer.error_code, answer.error_message)
        for kind, name, pattern, entries in answer.resources:
            for _principal, host, operation, permission in entries:
                if (pattern, host, permission) != (_LITERAL, _ANY_HOST, _ALLOW):
                    raise Refused(f"{user} has a list on {name} that was made by hand: remove it first")
                found.add(Rule(user, Resource(kind), name, Operation(operation)))
    return frozenset(found)


async def _create(client: AIOKafkaClient, rule: Rule) -> None:
    entry = (rule.resource, rule.name, _LITERAL, rule.principal, _ANY_HOST, rule.operation, _ALLOW)
    answer = await client.send(client.get_random_node(), CreateAclsRequest(*entry))
    for code, message in answer.creation_responses:
        _check(code, message)


async def _delete(client: AIOKafkaClient, rule: Rule) -> None:
    entry = (rule.resource, rule.name, _LITERAL, rule.principal, _ANY_HOST, rule.operation, _ALLOW)
    answer = await client.send(client.get_random_node(), DeleteAclsRequest(*entry))
    for code, message, *_ in answer.filter_responses:
        _check(code, message)


def _check(code: int, message: str | None) -> None:
    if code:
        raise Refused(f"{for_code(code).__name__}: {message}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--apply", action="store_true", help="make the broker's lists the same")
    console = Console()
    if not parser.parse_args().apply:
        table = Table("user", "may", "what", "name")
        for rule in sorted(rules()):
            table.add_row(rule.user, rule.operation.name.lower(), rule.resource.name.lower(), rule.name)
        console.print(table)
        return
    try:
        added, removed = asyncio.run(apply(KafkaSettings()))
    except (Refused, ValueError) as error:
        sys.exit(f"The access lists are not applied: {error}")
    console.print(f"{len(added)} added, {len(removed)} taken away, {len(rules() - added)} there already.")


if __name__ == "__main__":
    main()
