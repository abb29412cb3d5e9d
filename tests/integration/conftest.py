"""What tests of deployments share: targets, and the engine on which containers are."""

from collections.abc import Iterator

import pytest
from docker import DockerClient
from testcontainers.core.docker_client import DockerClient as Engine

from tests import servers


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    """The container engine."""
    _have_containers()
    client = Engine().client
    yield client
    client.close()


@pytest.fixture
def target(request: pytest.FixtureRequest) -> str:
    """A target; skipped where it can't be had, and failed where it was asked for."""
    name: str = request.param
    if name == "container":
        _have_containers()
    return name


def _have_containers() -> None:
    if reason := servers.why_no_containers():
        pytest.fail(reason) if servers.wanted() == "testcontainers" else pytest.skip(reason)
