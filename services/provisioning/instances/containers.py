"""Instances in containers of any engine that speaks the Docker API, each in a network that it shares with its tenant's
database alone.

They outlive provisioning, and are found again by their labels: whose they are, and which installation's.
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote
from uuid import UUID

import aiohttp
import asyncpg
import structlog
from aiodocker import Docker
from aiodocker.exceptions import DockerError
from aiodocker.networks import DockerNetwork

from chassis.persistence.database import LOST, close
from chassis.settings import KafkaSettings, Settings, TelemetrySettings
from deploy.prepare import Refused, create_roles
from deploy.scram import verifier
from dotmac_contracts.provisioning import DEDICATED
from services.provisioning.instances import (
    LOOPBACK,
    Instance,
    InstanceError,
    derived,
    environment,
    named,
    passwords,
    service_of,
)
from services.provisioning.settings import DeploymentSettings

log = structlog.get_logger()

DATABASE = "database"
"""The part that the instances stand on, and by what name they reach it."""
_INSTALLATION, _TENANT, _PART = "dotmac.installation", "dotmac.tenant", "dotmac.part"
_PORT, _DATABASE_PORT = 8000, 5432
_EXPORTS, _CA_FILE = "/var/lib/dotmac/exports", "/etc/dotmac/kafka-ca.pem"
# It is one tenant's alone. The outbox is a queue table: without the two vacuum settings it bloats under load.
_DATABASE_SETTINGS = {
    "shared_buffers": "32MB",
    "max_wal_size": "512MB",
    "autovacuum_naptime": "2s",
    "autovacuum_vacuum_cost_delay": "0",
}
_PASSED_ON = frozenset(
    name.upper()
    for name in (
        *TelemetrySettings.model_fields,
        *KafkaSettings.model_fields,
        *("environment", "kafka_idempotence", "kafka_session_seconds", "redis_url", "platform_currency"),
    )
)
"""The settings that instances have as provisioning has them."""
_ENGINE_SECONDS = 60
_CONNECT_SECONDS = 2.0
_READY_SECONDS = 60.0
_POLL_SECONDS, _POLLS = 0.05, 20
_STOP_SECONDS = 20
_AT_ONCE = 4
"""Tenants whose containers are started at once: after the machine itself has started, it is all of them."""
_FRESH_SECONDS = 1.0
_NOT_FOUND, _CONFLICT = 404, 409
_VERSIONS: dict[str, str] = {}
"""What the engines speak, by address: some take half a second to say it, and run other programs to find out."""


class Containers:
    """The containers of this installation."""

    parts = (DATABASE, *DEDICATED)

    def __init__(self, settings: Settings, deployments: DeploymentSettings) -> None:
        self._settings = settings
        self._deployments = deployments
        self._ours = {_INSTALLATION: deployments.installation or ""}
        self._seen: dict[UUID, dict[str, Instance]] = {}
        self._seen_at: float | None = None
        self._changes = 0
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def running(self) -> Mapping[UUID, Mapping[str, Instance]]:
        """Return what there is, those that ended as well; asked for often, the engine is not asked each time."""
        now = time.monotonic()
        if self._seen_at is None or now - self._seen_at > _FRESH_SECONDS:
            changes = self._changes
            async with self._engine() as docker:
                self._seen = await self._look(docker, {})
            # What was changed while it was looked may not have been seen.
            self._seen_at = now if changes == self._changes else None
        return self._seen

    async def start(
        self, tenant_id: UUID, parts: Collection[str], _ports: Mapping[str, int], release: str | None
    ) -> dict[str, Instance]:
        """Start containers of a tenant, the database first; the engine chooses their ports."""
        try:
            image = self._image(release)
            async with self._turns, self._engine() as docker:
                if DATABASE in parts:
                    await self._start_database(docker, tenant_id)
                services = [part for part in parts if part != DATABASE]
                await self._set_passwords(docker, tenant_id, {service_of(part) for part in services})
                await asyncio.gather(*(self._start_service(docker, tenant_id, part, image) for part in services))
                found = await self._look(docker, {_TENANT: str(tenant_id)})
        finally:
            self._changed()
        return {part: instance for part, instance in found.get(tenant_id, {}).items() if part in parts}

    async def stop(self, tenant_id: UUID, running: Mapping[str, Instance]) -> None:
        """End containers of a tenant and remove them: first those that need the others."""
        try:
            async with self._engine() as docker:
                needing = [running[part] for part in running if part != DATABASE]
                await asyncio.gather(*(_remove(docker, str(each.known_by)) for each in needing))
                if DATABASE in running:
                    await _remove(docker, str(running[DATABASE].known_by))
                await self._remove_networks(docker, tenant_id)
        finally:
            self._changed()
        log.info("instances_stopped", tenant_id=str(tenant_id), parts=sorted(running))

    async def get_ready(self) -> None:
        """Nothing: the image is seen to when a tenant's database is."""

    async def let_go(self) -> None:
        """Leave them: whoever supervises next finds them."""

    async def prepare_database(self, tenant_id: UUID) -> None:
        """Have the tenant's database server run and answer, and the images there that are needed next."""
        async with self._engine() as docker:
            for image in (self._deployments.postgres_image, self._image(None)):
                await _have(docker, image)
            found = await self._look(docker, {_TENANT: str(tenant_id), _PART: DATABASE})
            if not any(parts[DATABASE].alive for parts in found.values()):
                await self._start_database(docker, tenant_id)
            await self._set_passwords(docker, tenant_id, ())

    async def server_url(self, tenant_id: UUID) -> str:
        """Return where provisioning reaches the tenant's database server, as its superuser."""
        async with self._engine() as docker:
            return _superuser_url(await self._database_place(docker, tenant_id), self._superuser(tenant_id)[0])

    async def remove(self, tenant_id: UUID) -> None:
        """Remove all that was made for a tenant: its containers, its networks and its data."""
        labels = self._labels(tenant_id)
        async with self._engine() as docker:
            for container in await docker.containers.list(all=True, filters=_filters(labels)):
                await _remove(docker, container.id)
            for network in await docker.networks.list(filters=_labelled(labels)):
                await _unless_gone(DockerNetwork(docker, network["Name"]).delete())
            for volume in (await docker.volumes.list(filters=_labelled(labels)))["Volumes"] or ():
                await _unless_gone((await docker.volumes.get(volume["Name"])).delete())

    def _image(self, release: str | None) -> str:
        """Return the image of a release, or of the newest."""
        known = self._deployments.releases_in_images
        if release is None:
            return next(iter(known.values()))
        if release not in known:
            raise InstanceError(f"there is no image of the release {release}: DEPLOYMENT_IMAGES does not name it")
        return known[release]

    def _changed(self) -> None:
        self._changes, self._seen_at = self._changes + 1, None

    @asynccontextmanager
    async def _engine(self) -> AsyncIterator[Docker]:
        url = self._deployments.engine_url
        if not url:
            raise InstanceError("there is no container engine: DOCKER_HOST is not set")
        timeout = aiohttp.ClientTimeout(total=_ENGINE_SECONDS)
        try:
            async with Docker(url=url, timeout=timeout, api_version=_VERSIONS.get(url, "auto")) as docker:
                try:
                    yield docker
                finally:
                    if docker.api_version != "auto":
                        _VERSIONS[url] = docker.api_version
        except DockerError as error:
            raise InstanceError(f"the container engine refuses: {error.message}") from error
        except aiohttp.ClientError as error:
            _VERSIONS.pop(url, None)  # it may be another one when it is back
            raise InstanceError(f"the container engine does not answer: {error}") from error
        except (*LOST, Refused) as error:
            raise InstanceError(str(error) or repr(error)) from error

    async def _look(self, docker: Docker, labels: Mapping[str, str]) -> dict[UUID, dict[str, Instance]]:
        found: dict[UUID, dict[str, Instance]] = {}
        for container in await docker.containers.list(all=True, filters=_filters({**self._ours, **labels})):
            data = container._container
            tenant_id, part = UUID(data["Labels"][_TENANT]), data["Labels"][_PART]
            instance = Instance(container.id[:12], alive=data["State"] == "running")
            if part != DATABASE and instance.alive:
                host, port = self._place(data, _PORT)
                instance = instance._replace(host=host, port=port)
            found.setdefault(tenant_id, {})[part] = instance
        return found

    def _place(self, data: Mapping[str, Any], port: int) -> tuple[str | None, int | None]:
        """Return where a container's port is for the platform: in the network they share, or on this machine."""
        if networks := self._deployments.shared_networks:
            return data["NetworkSettings"]["Networks"].get(networks[0], {}).get("IPAddress") or None, port
        for published in data["Ports"] or ():
            if published["PrivatePort"] == port and published.get("PublicPort"):
                return LOOPBACK, published["PublicPort"]
        return None, None

    async def _start_database(self, docker: Docker, tenant_id: UUID) -> None:
        # With the one before, what stood on it may have lost the name service of its network: it starts anew.
        there = (await self._look(docker, {_TENANT: str(tenant_id)})).get(tenant_id, {})
        stood = [str(each.known_by) for part, each in there.items() if part != DATABASE and each.alive]
        await asyncio.gather(*(_remove(docker, each) for each in stood))
        volume = _name(tenant_id)
        # One that is there is left as it is.
        await docker.volumes.create({"Name": volume, "Labels": self._labels(tenant_id)})
        command = [word for name, value in _DATABASE_SETTINGS.items() for word in ("-c", f"{name}={value}")]
        told = {"POSTGRES_PASSWORD": self._superuser(tenant_id)[0]}
        config = {"Image": self._deployments.postgres_image, "User": "postgres", "Cmd": command}
        binds = [f"{volume}:/var/lib/postgresql"]
        # Provisioning alone reaches it from outside the tenant's networks.
        networks = self._deployments.shared_networks[:1]
        await self._have_network(docker, tenant_id, DATABASE)
        await self._run(docker, tenant_id, DATABASE, config, told, _DATABASE_PORT, {"Binds": binds}, networks)
        # Later than its own, by which its port is then reached.
        for network in await self._networks(docker, tenant_id):
            await self._join(docker, tenant_id, network)

    async def _start_service(self, docker: Docker, tenant_id: UUID, part: str, image: str) -> None:
        deployments, name = self._deployments, service_of(part)
        passed = {key: value for key, value in os.environ.items() if key in _PASSED_ON or key.startswith("OTEL_")}
        seen = {
            "KAFKA_BOOTSTRAP_SERVERS": deployments.kafka_servers or self._settings.kafka_bootstrap_servers,
            "JWKS_URL": deployments.jwks_url or self._settings.jwks_url,
        }
        if deployments.otlp_endpoint is not None:
            seen["OTLP_ENDPOINT"] = deployments.otlp_endpoint
        own = environment(self._settings, f"postgresql://{DATABASE}:{_DATABASE_PORT}/postgres", name, tenant_id)
        # Nobody but the gateway reaches it, which says whose a request is.
        at = {"HOST": "0.0.0.0", "PORT": str(_PORT), "TRUSTED_PROXIES": "*", "EXPORT_DIRECTORY": _EXPORTS}
        binds = [f"{deployments.exports or f'dotmac-exports-{deployments.installation}'}:{_EXPORTS}"]
        if ca_file := self._settings.kafka_ca_file:
            binds.append(f"{ca_file.resolve()}:{_CA_FILE}:ro")
            seen["KAFKA_CA_FILE"] = _CA_FILE
        config = {"Image": image, "Cmd": ["python", "-m", f"services.{name}"]}
        host = {"ReadonlyRootfs": True, "Tmpfs": {"/tmp": ""}, "Binds": binds}
        told = {**passed, **seen, **own, **at}
        await self._have_network(docker, tenant_id, part)
        await self._join(docker, tenant_id, _name(tenant_id, part))
        await self._run(docker, tenant_id, part, config, told, _PORT, host, deployments.shared_networks)
        log.info("instance_started", tenant_id=str(tenant_id), part=part)

    async def _run(
        self,
        docker: Docker,
        tenant_id: UUID,
        part: str,
        config: Mapping[str, Any],
        told: Mapping[str, str],
        port: int,
        host: Mapping[str, Any],
        networks: Sequence[str],
    ) -> None:
        """Start a container of a tenant, in place of one that ended; one that runs is left as it is."""
        name = _name(tenant_id, part)
        if await self._runs(docker, name):
            return
        published = {} if networks else {f"{port}/tcp": [{"HostIp": LOOPBACK, "HostPort": ""}]}
        whole = {
            **config,
            "Env": [f"{key}={value}" for key, value in told.items()],
            "Labels": {**self._labels(tenant_id), _PART: part},
            "ExposedPorts": {f"{port}/tcp": {}},
            "Healthcheck": {"Test": ["NONE"]},  # a process every few seconds, of which nobody takes notice
            "HostConfig": {
                "NetworkMode": name,
                "PortBindings": published,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges:true"],
                **host,
            },
            "NetworkingConfig": {"EndpointsConfig": {name: {}}},
        }
        container = await docker.containers.create(whole, name=name)
        for network in networks:
            await DockerNetwork(docker, network).connect({"Container": container.id})
        await container.start()

    async def _have_network(self, docker: Docker, tenant_id: UUID, part: str) -> None:
        name, labels = _name(tenant_id, part), {**self._labels(tenant_id), _PART: part}
        if not any(found["Name"] == name for found in await docker.networks.list(filters={"name": name})):
            await docker.networks.create({"Name": name, "Driver": "bridge", "Labels": labels, "CheckDuplicate": True})

    async def _networks(self, docker: Docker, tenant_id: UUID) -> dict[str, str]:
        """Return the networks of a tenant's instances by name, each with its part."""
        found = await docker.networks.list(filters=_labelled(self._labels(tenant_id)))
        parts = {network["Name"]: str(network["Labels"][_PART]) for network in found}
        return {name: part for name, part in parts.items() if part != DATABASE}

    async def _join(self, docker: Docker, tenant_id: UUID, network: str) -> None:
        """Have the database reached in an instance's network, by its name."""
        if network not in await self._joined(docker, tenant_id):
            container, endpoint = _name(tenant_id, DATABASE), {"Aliases": [DATABASE]}
            await DockerNetwork(docker, network).connect({"Container": container, "EndpointConfig": endpoint})

    async def _joined(self, docker: Docker, tenant_id: UUID) -> Collection[str]:
        """Return the names of the networks that the database is in."""
        database = await self._database(docker, tenant_id)
        networks: Mapping[str, Any] = database["NetworkSettings"]["Networks"] if database else {}
        return networks.keys()

    async def _remove_networks(self, docker: Docker, tenant_id: UUID) -> None:
        """Remove those of a tenant's networks whose instance is no more; one may be left of a stop that was cut off."""
        there = (await self._look(docker, {_TENANT: str(tenant_id)})).get(tenant_id, {})
        joined = await self._joined(docker, tenant_id)
        for name, part in (await self._networks(docker, tenant_id)).items():
            if part not in there:
                network = DockerNetwork(docker, name)
                if name in joined:
                    leaving = {"Container": _name(tenant_id, DATABASE), "Force": True}
                    await _unless_gone(network.disconnect(leaving))
                await _unless_gone(network.delete())

    async def _runs(self, docker: Docker, name: str) -> bool:
        """Whether a container runs. One that ended is removed, and the last that it said is kept."""
        try:
            container = await docker.containers.get(name)
            state = container._container["State"]
            if state["Running"]:
                return True
            said = await container.log(stdout=True, stderr=True, tail=20)
        except DockerError as error:
            if error.status != _NOT_FOUND:
                raise
            return False
        log.warning("instance_ended", container=name, status=state.get("ExitCode"), said="".join(said))
        await _remove(docker, container.id)
        return False

    async def _database_place(self, docker: Docker, tenant_id: UUID) -> str:
        database = await self._database(docker, tenant_id)
        if database and database["State"] == "running":
            host, port = self._place(database, _DATABASE_PORT)
            if host and port:
                return f"{host}:{port}"
        raise InstanceError("its database server does not run")

    async def _database(self, docker: Docker, tenant_id: UUID) -> Mapping[str, Any] | None:
        """Return what the engine says of the container that a tenant's database is in."""
        labels = {**self._labels(tenant_id), _PART: DATABASE}
        found: list[Any] = await docker.containers.list(all=True, filters=_filters(labels))
        return found[0]._container if found else None

    async def _set_passwords(self, docker: Docker, tenant_id: UUID, services: Collection[str]) -> None:
        """Wait until the database server answers, and set the passwords of these services' roles."""
        passwords_of = {name: passwords(self._settings, named(name, tenant_id)) for name in services}
        connection = await self._connected(docker, tenant_id)
        try:
            for each in passwords_of.values():
                await create_roles(connection, each)  # SECRET_KEY may have changed
        finally:
            await close(connection)

    async def _connected(self, docker: Docker, tenant_id: UUID) -> "asyncpg.Connection[Any]":
        """Connect as the superuser; the data may have the password that followed from SECRET_KEY_PREVIOUS."""
        current, *_ = every = self._superuser(tenant_id)
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                place = await self._database_place(docker, tenant_id)  # unless it has ended meanwhile
                for _ in range(_POLLS):
                    try:
                        connection = await self._signed_in(place, every)
                    except LOST:
                        await asyncio.sleep(_POLL_SECONDS)  # it is starting yet
                        continue
                    await connection.execute(f"alter role postgres password '{verifier(current)}'")
                    return connection

    async def _signed_in(self, place: str, known: Sequence[str]) -> "asyncpg.Connection[Any]":
        """Connect as the superuser with the first of these passwords that is right."""
        for password in known:
            with contextlib.suppress(asyncpg.InvalidPasswordError):
                return await asyncpg.connect(_superuser_url(place, password), timeout=_CONNECT_SECONDS)
        raise InstanceError(
            "its database server knows neither the password that follows from SECRET_KEY nor the former"
        )

    def _superuser(self, tenant_id: UUID) -> list[str]:
        """Return the passwords of the superuser of a tenant's database server: the one it has, and the former one."""
        return [derived(secret, f"the database server of {tenant_id}") for secret in self._settings.sealing_secrets]

    def _labels(self, tenant_id: UUID) -> dict[str, str]:
        return {**self._ours, _TENANT: str(tenant_id)}


def _name(tenant_id: UUID, part: str | None = None) -> str:
    """Return the name of a tenant's volume, or of the container of a part and of its network."""
    return f"dotmac-{tenant_id}" if part is None else f"dotmac-{tenant_id}-{part}"


def _superuser_url(place: str, password: str) -> str:
    return f"postgresql://postgres:{quote(password, safe='')}@{place}/postgres"


def _labelled(labels: Mapping[str, str]) -> dict[str, list[str]]:
    return {"label": [f"{name}={value}" for name, value in labels.items()]}


def _filters(labels: Mapping[str, str]) -> str:
    return json.dumps(_labelled(labels))


async def _have(docker: Docker, image: str) -> None:
    """Fetch an image that is not there."""
    try:
        await docker.images.inspect(image)
    except DockerError as error:
        if error.status != _NOT_FOUND:
            raise
        await docker.images.pull(image)


async def _remove(docker: Docker, container: str) -> None:
    """End a container in order, and remove it with what it kept for itself."""
    found = docker.containers.container(container)
    await _unless_gone(found.stop(t=_STOP_SECONDS))
    await _unless_gone(found.delete(force=True, v=True))


async def _unless_gone(request: Any) -> None:
    """Await a request about something that may be gone, or is being removed, already."""
    try:
        await request
    except DockerError as error:
        if error.status not in (_NOT_FOUND, _CONFLICT):
            raise
