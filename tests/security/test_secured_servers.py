"""The whole platform on a Kafka that checks every user and a PostgreSQL that speaks TLS alone."""

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from chassis.messaging.broker import BrokerError, ensure_topics, ping
from chassis.messaging.security import client_security
from deploy.prepare import database_url, prepare_databases
from deploy.roles import LOGINS, SERVICES, login
from deploy.security import acls
from deploy.stack.folder import Folder
from deploy.stack.processes import Child, free_port
from dotmac_contracts import topics
from tests.api import Api, eventually
from tests.conftest import deploy, sign_in
from tests.security.secured import ADMINISTRATOR, Authority, SecuredKafka, SecuredPostgres

V1 = "/api/v1"
ADMIN = ("admin@secured.example", "a password for the secured one")

pytestmark = pytest.mark.timeout(600)  # the platform is started within it


@dataclass
class Platform:
    """Servers that are secured, and the platform's processes on them."""

    kafka: SecuredKafka
    postgres: SecuredPostgres
    authority: Authority
    passwords: dict[str, str]
    ports: dict[str, int]
    held: dict[str, socket.socket]
    """Ports kept until their process starts, so that nobody else on this machine answers there meanwhile."""
    children: dict[str, Child] = field(default_factory=dict)

    async def start(self, name: str, **changes: str) -> None:
        module = "gateway" if name == "gateway" else f"services.{name}"
        environment = {**self.environment(name), **changes}
        log = self.authority.file.with_name(f"{name}.log")
        if name in self.held:
            self.held.pop(name).close()
        self.children[name] = Child(name, [sys.executable, "-m", module], environment, log)
        await self.children[name].start()

    async def ready(self, name: str) -> None:
        async def answers() -> bool:
            self.children[name].raise_if_dead()
            try:
                url = f"{self.url(name)}/health/ready"
                async with aiohttp.ClientSession() as session, session.get(url) as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await eventually(answers, 120)

    async def restart(self, name: str, **changes: str) -> None:
        await self.children[name].stop()
        await self.start(name, **changes)
        await self.ready(name)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def database(self, service: str, role: str) -> str:
        return database_url(self.postgres.checked_url, service, role, self.passwords[login(service, role)])

    def environment(self, name: str) -> dict[str, str]:
        """Return what a process is told; each service has its own name and password at each server."""
        common = {
            **os.environ,
            "ENVIRONMENT": "production",
            "SECRET_KEY": self.passwords["SECRET_KEY"],
            "JWT_SECRET_KEY": self.passwords["JWT_SECRET_KEY"],
            "JWKS_URL": f"{self.url('tenant')}/.well-known/jwks.json",
            "GATEWAY_URL": self.url("gateway"),
            "PORT": str(self.ports[name]),
            "BOOTSTRAP_ADMIN_EMAIL": ADMIN[0],
            "BOOTSTRAP_ADMIN_PASSWORD": ADMIN[1],
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": name,
            "KAFKA_SASL_PASSWORD": self.passwords[name],
            "KAFKA_CA_FILE": str(self.authority.file),
        }
        if name == "gateway":
            return {**common, **{f"{service.upper()}_URL": self.url(service) for service in SERVICES}}
        return {
            **common,
            "DATABASE_URL": self.database(name, "api"),
            "CONSUMER_DATABASE_URL": self.database(name, "consumer"),
            "RELAY_DATABASE_URL": self.database(name, "relay"),
        }


def _held() -> socket.socket:
    kept = socket.socket()
    kept.bind(("127.0.0.1", free_port()))
    return kept


@pytest.fixture(scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    path = tmp_path_factory.mktemp("secured")
    folder = Folder(path)
    await folder.claim(lambda _message: None)
    authority = Authority(path / "certificates")
    names = [*LOGINS, *SERVICES, "gateway", ADMINISTRATOR, "SECRET_KEY", "JWT_SECRET_KEY", "postgres"]
    passwords = {name: secrets.token_urlsafe(32) for name in names}
    users = {name: passwords[name] for name in (*SERVICES, "gateway", ADMINISTRATOR)}
    kafka = SecuredKafka(folder, free_port(), authority, users)
    postgres = SecuredPostgres(folder, free_port(), passwords["postgres"], authority)
    held = {name: _held() for name in (*SERVICES, "gateway")}
    ports = {name: socket_.getsockname()[1] for name, socket_ in held.items()}
    platform = Platform(kafka, postgres, authority, passwords, ports, held)
    try:
        await postgres.start()
        await kafka.start()
        await ensure_topics(kafka.bootstrap_servers, security=kafka.security)
        await acls.apply(kafka.settings(ADMINISTRATOR))
        await prepare_databases(postgres.checked_url, passwords, say=lambda _message: None)
        for name in (*SERVICES, "gateway"):
            await platform.start(name)
        for name in (*SERVICES, "gateway"):
            await platform.ready(name)
        yield platform
    finally:
        for kept in platform.held.values():
            kept.close()
        for child in platform.children.values():
            await child.stop()
        await kafka.stop()
        await postgres.stop()
        postgres.remove()
        folder.release()


@pytest.fixture
async def api(secured: Platform) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(secured.url("gateway"), session, None, set(), {})


async def test_the_main_job_is_done_on_secured_servers(secured: Platform, api: Api) -> None:
    administrator = api.as_(await sign_in(api, *ADMIN))
    tenant = await deploy(api, administrator)
    assert tenant.deployment["status"] == "succeeded"
    customer = (await tenant.api.send("POST", f"{V1}/customers", {"name": "Over TLS"})).expect(201)

    async def opened() -> Any:
        found = await tenant.api.send("GET", f"{V1}/billing-accounts", params={"customer_id": customer["id"]})
        return found.expect(200)["items"] or None

    await eventually(opened)
    (await tenant.api.send("POST", f"{V1}/auth/logout")).expect(204)

    async def refused() -> bool:
        return (await tenant.api.send("GET", f"{V1}/customers")).status == 401

    await eventually(refused)
    connection = await asyncpg.connect(secured.postgres.checked_url)
    try:
        rows = await connection.fetch(
            "select usename, ssl from pg_stat_ssl join pg_stat_activity using (pid) where usename = any($1::text[])",
            [login(service, role) for service in SERVICES for role in ("api", "consumer", "relay")],
        )
        assert {row["usename"] for row in rows} >= {login(service, "relay") for service in SERVICES}
        assert all(row["ssl"] for row in rows)
    finally:
        await connection.close()


def producer(secured: Platform, user: str) -> AIOKafkaProducer:
    settings = secured.kafka.settings(user)
    options = client_security(settings)
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, acks="all", enable_idempotence=True, **options
    )


@pytest.mark.parametrize("service", [*SERVICES, "gateway"])
async def test_a_service_writes_its_own_topics_and_no_others(secured: Platform, service: str) -> None:
    async with producer(secured, service) as writer:
        for topic in topics.ALL:
            if topic.owner == service:
                # Not JSON: consumers keep it as a dead letter, and what this test is about is that it got there.
                await writer.send_and_wait(topic.name, b"from its owner", b"acl-test", headers=[("ce_id", b"x")])
            else:
                with pytest.raises(TopicAuthorizationFailedError):
                    await writer.send_and_wait(topic.name, b"forged", b"acl-test")


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_reads_what_it_subscribes_to_and_no_more(secured: Platform, service: str) -> None:
    mine = {rule for rule in acls.rules() if rule.user == service and rule.resource is acls.Resource.TOPIC}
    readable = {rule.name for rule in mine if rule.operation is acls.Operation.READ}
    assert readable
    settings = secured.kafka.settings(service)
    where = {"bootstrap_servers": settings.kafka_bootstrap_servers, **client_security(settings)}
    async with asyncio.timeout(120), AIOKafkaConsumer(auto_offset_reset="earliest", **where) as reader:
        # Of all others it does not even learn that they exist.
        assert await reader.topics() == {rule.name for rule in mine}
        for rule in mine:
            reader.assign([TopicPartition(rule.name, 0)])
            if rule.name in readable:
                await reader.getmany(timeout_ms=500)
            else:
                with pytest.raises(TopicAuthorizationFailedError):
                    await reader.getone()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_is_a_member_of_its_own_groups_alone(secured: Platform, service: str) -> None:
    groups = {rule for rule in acls.rules() if rule.resource is acls.Resource.GROUP}
    (topic, *_) = sorted(
        rule.name
        for rule in acls.rules()
        if rule.user == service and rule.operation is acls.Operation.READ and rule.resource is acls.Resource.TOPIC
    )
    settings = secured.kafka.settings(service)
    where = {"bootstrap_servers": settings.kafka_bootstrap_servers, **client_security(settings)}
    for group in groups:
        # Partitions by hand: the running service keeps its own.
        reader = AIOKafkaConsumer(group_id=group.name, enable_auto_commit=False, **where)
        partition = TopicPartition(topic, 0)
        reader.assign([partition])
        try:
            async with asyncio.timeout(60):
                if group.user == service:
                    await reader.start()
                    await reader.committed(partition)
                else:
                    with pytest.raises(GroupAuthorizationFailedError):
                        await reader.start()
                        await reader.committed(partition)
        finally:
            await reader.stop()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_administers_nothing(secured: Platform, service: str) -> None:
    settings = secured.kafka.settings(service)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers, **client_security(settings))
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(f"{service}.mine.v1", 1, 1)])
        assert [code for _, code, *_ in answer.topic_errors] == [TopicAuthorizationFailedError.errno]
        for topic in topics.ALL:
            answer = await admin.delete_topics([topic.name])
            assert [code for _, code, *_ in answer.topic_error_codes] == [TopicAuthorizationFailedError.errno]
    finally:
        await admin.close()
    with pytest.raises(acls.Refused, match=ClusterAuthorizationFailedError.__name__):
        await acls.apply(settings)


@pytest.mark.parametrize(
    "changes",
    [
        {"kafka_security_protocol": "PLAINTEXT"},
        {"kafka_security_protocol": "SSL"},
        {"kafka_security_protocol": "SASL_PLAINTEXT"},
        {"kafka_sasl_password": "a wrong password"},
        {"kafka_sasl_username": "nobody"},
        {"kafka_ca_file": None},
    ],
    ids=lambda changes: str(changes),
)
async def test_nobody_gets_to_the_broker_another_way(secured: Platform, changes: dict[str, Any]) -> None:
    good = secured.kafka.settings("billing")
    await ping(good.kafka_bootstrap_servers, security=client_security(good))
    with pytest.raises((BrokerError, KafkaError)):
        await ping(good.kafka_bootstrap_servers, security=client_security(secured.kafka.settings("billing", **changes)))


async def test_a_client_does_not_talk_to_a_broker_of_another_name_or_authority(
    secured: Platform, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path)
    for changes in (
        {"kafka_ca_file": stranger.file},
        {"kafka_bootstrap_servers": secured.kafka.bootstrap_servers.replace("127.0.0.1", "localhost")},
    ):
        settings = secured.kafka.settings("billing", **changes)
        with pytest.raises((BrokerError, KafkaError)):
            await ping(settings.kafka_bootstrap_servers, security=client_security(settings))


async def test_access_lists_are_applied_again_without_a_change_and_strays_are_taken_away(secured: Platform) -> None:
    settings = secured.kafka.settings(ADMINISTRATOR)
    assert await acls.apply(settings) == (frozenset(), frozenset())
    stray = acls.Rule("customer", acls.Resource.TOPIC, topics.BILLING_INVOICE.name, acls.Operation.WRITE)
    client = AIOKafkaClient(bootstrap_servers=settings.kafka_bootstrap_servers, **client_security(settings))
    try:
        await client.bootstrap()
        await acls._create(client, stray)
    finally:
        await client.close()
    async with producer(secured, "customer") as writer:

        async def allowed() -> bool:
            try:
                await writer.send_and_wait(stray.name, b"forged", b"acl-test")
            except TopicAuthorizationFailedError:
                return False
            return True

        await eventually(allowed)
        assert await acls.apply(settings) == (frozenset(), frozenset({stray}))

        async def refused() -> bool:
            return not await allowed()

        await eventually(refused)


async def test_nobody_gets_to_the_database_without_tls(secured: Platform, tmp_path: Path) -> None:
    place = urlsplit(secured.postgres.url)
    assert place.port is not None
    for url in (secured.postgres.url, secured.database("billing", "api").split("?")[0]):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="no encryption"):
            await asyncpg.connect(url, ssl="disable")
    stranger = Authority(tmp_path)
    for query in (
        f"sslmode=verify-full&sslrootcert={stranger.file}",
        f"sslmode=verify-ca&sslrootcert={stranger.file}",
    ):
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await asyncpg.connect(f"{secured.postgres.url}?{query}")
    with pytest.raises(OSError, match="certificate"):
        await asyncpg.connect(secured.postgres.checked_url.replace("127.0.0.1", "localhost"))


async def test_what_is_sealed_outlives_a_change_of_the_secret_and_not_its_loss(secured: Platform, api: Api) -> None:
    administrator = api.as_(await sign_in(api, *ADMIN))
    tenant = await deploy(api, administrator)
    path, body = f"{V1}/customers", {"name": "Kept under a secret"}
    key = {"Idempotency-Key": secrets.token_hex(8)}
    first = (await tenant.api.send("POST", path, body, headers=key)).expect(201)
    connection = await asyncpg.connect(secured.database("customer", "api"))
    try:
        await connection.execute(f"set app.tenant_id = '{tenant.id}'")
        kept = await connection.fetchval("select body from idempotency_key where key = $1", key["Idempotency-Key"])
        assert b"Kept under" not in kept
    finally:
        await connection.close()
    old, new = secured.passwords["SECRET_KEY"], secrets.token_urlsafe(32)
    await secured.restart("customer", SECRET_KEY=new, SECRET_KEY_PREVIOUS=old)
    again = await tenant.api.send("POST", path, body, headers=key)
    assert again.expect(201) == first
    assert again.headers["Idempotency-Replayed"] == "true"
    later = {"Idempotency-Key": secrets.token_hex(8)}
    second = (await tenant.api.send("POST", path, body, headers=later)).expect(201)
    await secured.restart("customer", SECRET_KEY=new)
    assert (await tenant.api.send("POST", path, body, headers=later)).expect(201) == second
    (await tenant.api.send("POST", path, body, headers=key)).problem(409, "answer-not-readable")
    await secured.restart("customer")
