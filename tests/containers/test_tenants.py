"""A tenant's containers on a real engine, without a platform: what the tests of the targets don't come to."""

import secrets
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from docker import DockerClient
from testcontainers.core.docker_client import DockerClient as Engine

from chassis.settings import Settings
from services.provisioning.instances import InstanceError
from services.provisioning.instances.containers import Containers
from services.provisioning.settings import DeploymentSettings
from tests import servers

INSTALLATION = f"test-{secrets.token_hex(4)}"
OLD, NEW, OTHER = ({"secret_key": letter * 40} for letter in "abc")


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    if reason := servers.why_no_containers():
        pytest.fail(reason) if servers.wanted() == "testcontainers" else pytest.skip(reason)
    client = Engine().client
    yield client
    client.close()


@pytest.fixture
def network(engine: DockerClient) -> Iterator[str]:
    """A network of the platform's."""
    made = engine.networks.create(f"{INSTALLATION}-shared", labels={"org.testcontainers": "true"})
    yield made.name
    made.remove()


@pytest.fixture
async def tenant(engine: DockerClient) -> AsyncIterator[UUID]:
    tenant_id = uuid4()
    yield tenant_id
    await containers(OLD).remove(tenant_id)
    chosen = {"label": f"dotmac.tenant={tenant_id}"}
    assert not [*engine.networks.list(filters=chosen), *engine.volumes.list(filters=chosen)]


def containers(secrets_: dict[str, str], installation: str = INSTALLATION, networks: str = "") -> Containers:
    deployments = DeploymentSettings.model_validate(
        {"DOTMAC_IMAGE": servers.IMAGE, "installation": installation, "networks": networks}
    )
    return Containers(Settings.model_validate(secrets_), deployments)


async def enters(url: str) -> bool:
    connection = await asyncpg.connect(url)
    await connection.close()
    return True


async def test_a_server_lets_provisioning_in_after_its_secret_has_changed(tenant: UUID) -> None:
    before = containers(OLD)
    await before.prepare_database(tenant)
    assert await enters(await before.server_url(tenant))
    with pytest.raises(InstanceError, match="neither the password"):
        await containers(OTHER).prepare_database(tenant)
    after = containers({**NEW, "secret_key_previous": OLD["secret_key"]})
    await after.prepare_database(tenant)
    assert await enters(await containers(NEW).server_url(tenant))
    with pytest.raises(asyncpg.InvalidPasswordError):
        await enters(await before.server_url(tenant))


async def test_in_a_network_of_the_platform_no_port_of_the_machine_is_used(
    engine: DockerClient, network: str, tenant: UUID
) -> None:
    shared = containers(OLD, networks=network)
    await shared.prepare_database(tenant)
    (running,) = (await shared.running())[tenant].values()
    container = engine.containers.get(str(running.known_by))
    assert not [at for ports in container.ports.values() for at in ports or ()]
    url = await shared.server_url(tenant)
    assert urlsplit(url).hostname == container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"]
    assert await enters(url)
    # Another installation on the same engine sees nothing of it, and can't remove it.
    another = containers(OLD, installation=f"{INSTALLATION}-2")
    await another.remove(tenant)
    assert tenant not in await another.running()
    assert await enters(url)
