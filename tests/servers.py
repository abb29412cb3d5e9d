"""The PostgreSQL and the Kafka that the tests' stack stands on.

`STACK_SERVERS` chooses:
  environment     those that DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS name
  testcontainers  containers, of the images that POSTGRES_IMAGE and KAFKA_IMAGE name, or the official ones
  local           those that the stack starts itself
Without it, the first of these that is there.
"""

import contextlib
import functools
import gc
import os
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from docker.errors import DockerException, ImageNotFound, NotFound
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from deploy.stack.processes import free_port, own_address

SETTING = "STACK_SERVERS"
PROVIDERS = ("environment", "testcontainers", "local")
POSTGRES_IMAGE = os.environ.get("POSTGRES_IMAGE") or "docker.io/library/postgres:18"
KAFKA_IMAGE = os.environ.get("KAFKA_IMAGE") or "docker.io/apache/kafka:4.1.0"
IMAGE = os.environ.get("DOTMAC_IMAGE") or "localhost/dotmac-platform:dev"
"""The platform's, which tenants' own containers run."""
_KAFKA_SECONDS = 120


class Servers(NamedTuple):
    """Where they are; an empty address leaves it to the stack to start its own."""

    postgres_url: str
    kafka: str
    provider: str
    reason: str
    kafka_for_containers: str = ""
    """Where a Kafka that is given is for other containers; empty where the stack starts its own."""


def wanted() -> str | None:
    """Return the provider that the setting names, or None; ValueError for a word that names none."""
    name = os.environ.get(SETTING) or None
    if name is not None and name not in PROVIDERS:
        raise ValueError(f"{SETTING} is {name!r}; it may be {', '.join(PROVIDERS)}")
    return name


@functools.cache
def why_no_engine() -> str | None:
    """Return why no container engine can be used, or None where one answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the client leaves a socket that failed to the collector
        try:
            DockerClient().client.ping()
        except DockerException as error:
            cause: BaseException = error
            while cause.__context__:
                cause = cause.__context__
            reason = f"no container engine answers on {os.environ.get('DOCKER_HOST', 'its usual socket')}: {cause}"
            del error, cause
        else:
            return None
        gc.collect()
        return reason


def why_no_images() -> str | None:
    """Return which image can't be had, after trying to pull it, or None where both are there."""
    client = DockerClient().client
    for name in (POSTGRES_IMAGE, KAFKA_IMAGE):
        try:
            with contextlib.suppress(ImageNotFound):
                client.images.get(name)
                continue
            client.images.pull(name)
        except DockerException as error:
            return f"the image {name} can't be had: {error}"
    return None


@functools.cache
def why_no_containers() -> str | None:
    """Return why tenants can have no containers of their own here, or None where they can."""
    if reason := why_no_engine():
        return reason
    for name in (IMAGE, POSTGRES_IMAGE):
        try:
            DockerClient().client.images.get(name)
        except ImageNotFound:
            return f"there is no image {name}: make image"
    if wanted() == "environment":
        return "nobody says where Kafka is for containers"
    return None if own_address() else "this machine has no address that containers reach"


def clear_away(installation: str) -> None:
    """Remove what an installation that is stopped has left on the container engine."""
    client, left = DockerClient().client, {"label": f"dotmac.installation={installation}"}
    for container in client.containers.list(all=True, filters=left, ignore_removed=True):
        container.remove(force=True, v=True)
    for thing in (*client.networks.list(filters=left), *client.volumes.list(filters=left)):
        thing.remove()
    with contextlib.suppress(NotFound):  # if nobody left
        client.volumes.get(f"dotmac-exports-{installation}").remove()
    client.close()


@contextlib.contextmanager
def running() -> Iterator[Servers]:
    """Start what the chosen provider needs, and remove it afterwards."""
    provider, reason = _choose()
    if provider == "environment":
        addresses = (os.environ.get("DATABASE_URL", ""), os.environ.get("KAFKA_BOOTSTRAP_SERVERS", ""))
        yield Servers(*addresses, provider, reason)
    elif provider == "testcontainers":
        with _postgres() as postgres, _kafka() as kafka:
            yield Servers(postgres, kafka[0], provider, reason, kafka[1])
    else:
        yield Servers("", "", provider, reason)


def _choose() -> tuple[str, str]:
    if name := wanted():
        return name, f"{SETTING} says so"
    if os.environ.get("DATABASE_URL") or os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return "environment", "it names them"
    if reason := why_no_engine() or why_no_images():
        return "local", reason
    return "testcontainers", "a container engine answers"


@contextlib.contextmanager
def _postgres() -> Iterator[str]:
    settings = {"max_connections": "300", "autovacuum_naptime": "2s", "autovacuum_vacuum_cost_delay": "0"}
    container = PostgresContainer(POSTGRES_IMAGE, username="postgres", dbname="postgres", driver=None)
    container.with_command(" ".join(f"-c {name}={value}" for name, value in settings.items()))
    with container:
        yield container.get_connection_url()


@contextlib.contextmanager
def _kafka() -> Iterator[tuple[str, str]]:
    # testcontainers' own class is for Confluent's image. Clients are told the address that they shall come back to, so
    # the port on this machine has to be known before the container starts.
    port = free_port()
    beside = free_port({port})
    host = DockerClient().host()
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, port).with_bind_ports(29092, beside)
    container.with_envs(
        KAFKA_HEAP_OPTS="-Xms256m -Xmx512m",
        KAFKA_NODE_ID="1",
        KAFKA_PROCESS_ROLES="broker,controller",
        KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9093",
        KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
        KAFKA_LISTENERS="INTERNAL://:19092,EXTERNAL://:9092,CONTAINERS://:29092,CONTROLLER://:9093",
        KAFKA_ADVERTISED_LISTENERS=f"INTERNAL://localhost:19092,EXTERNAL://{host}:{port},"
        f"CONTAINERS://{own_address() or host}:{beside}",
        KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT,CONTAINERS:PLAINTEXT,"
        "CONTROLLER:PLAINTEXT",
        KAFKA_INTER_BROKER_LISTENER_NAME="INTERNAL",
        KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
        KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="4",
        KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
        KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
    )
    started = LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(_KAFKA_SECONDS)
    with container.waiting_for(started):
        yield f"{host}:{port}", f"{own_address() or host}:{beside}"
