"""The platform that compose has brought up (`make up`): a tenant comes and leaves."""

import json
import os
from collections.abc import AsyncIterator

import aiohttp
import pytest
from docker.models.containers import Container
from testcontainers.core.docker_client import DockerClient

from deploy import compose
from tests.api import Api, eventually
from tests.conftest import registration, sign_in
from tests.deployments import ended, ordered, status_of

V1 = "/api/v1"
_PRINTED = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text())"


@pytest.fixture
async def platform() -> AsyncIterator[Api]:
    """The API as the platform's administrator; `PLATFORM_UP=1` says that there is one."""
    found = compose.running()
    if found is None:
        reason = "no platform in containers is up: make up"
        pytest.fail(reason) if os.environ.get("PLATFORM_UP") else pytest.skip(reason)
    async with aiohttp.ClientSession() as http:
        public = Api(found.gateway, http, None, set(), {})
        yield public.as_(await sign_in(public, *found.administrator))


def worker(service: str) -> Container:
    """Return the container of a service's worker."""
    label = f"com.docker.compose.service={service}-worker"
    (found,) = DockerClient().client.containers.list(filters={"label": label})
    return found


async def test_a_tenant_comes_and_leaves_and_what_it_had_is_written_down(platform: Api) -> None:
    tenant: str = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)["id"]
    assert (await ended(platform, await ordered(platform, tenant)))["status"] == "succeeded"

    async def active() -> bool:
        return await status_of(platform, tenant) == "active"

    await eventually(active)
    leaving = await ordered(platform, tenant, operation="deprovision", grace_seconds=0, reason="They leave")
    found = await ended(platform, leaving)
    assert (found["status"], found["reason"]) == ("succeeded", None)
    for service in ("tenant", "customer", "billing", "integration"):
        at = worker(service)
        folder = dict(line.split("=", 1) for line in at.attrs["Config"]["Env"])["EXPORT_DIRECTORY"]
        manifest = f"{folder}/{tenant}/{leaving}/{service}/manifest.json"
        status, output = at.exec_run(["python", "-c", _PRINTED, manifest])
        assert status == 0, output
        tables = {entry["table"] for entry in json.loads(output)}
        assert tables, manifest
