"""A tenant's own instances are upgraded, scaled and rolled back, while its users work on."""

import asyncio
import json
import secrets
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import asyncpg
import pytest
from docker import DockerClient

from chassis.persistence.migrations import versions_of
from deploy.stack.stack import Stack
from services.provisioning.instances.containers import DATABASE
from tests import servers
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy
from tests.crashes import arm, crashed_at_each, mortal
from tests.deployments import done, ended, ordered, past_security, settled
from tests.integration.test_operation_failures import at, away, failing, time_is_over
from tests.integration.test_target_crashes import STEP, TOLD, around
from tests.integration.test_targets import both_answer, leaves, parts_of, processes_of

V1 = "/api/v1"


OWN = pytest.mark.parametrize("target", ["process", "container"], indirect=True)


class Releases(Protocol):
    """The releases that instances can be of at a target; `broken` does not start."""

    setting: str

    def known_as(self, release: str) -> str:
        """Return what provisioning is told of a release."""

    def of(self, tenant: str) -> dict[str, str]:
        """Return of which release each of a tenant's instances is."""


class Environments:
    """Of processes: Pythons, in which processes can be told by their release."""

    setting = "DEPLOYMENT_INTERPRETERS"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known_as(self, release: str) -> str:
        script = self._folder / f"python-{release}"
        runs = "exit 1" if release == "broken" else f'RELEASE={release} exec {sys.executable} "$@"'
        script.write_text(f"#!/bin/sh\n{runs}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return str(script)

    def of(self, tenant: str) -> dict[str, str]:
        return {str(pid): _release(pid) for pid in processes_of(tenant)}


def _release(pid: int) -> str:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return "gone"
    return next((each.partition(b"=")[2].decode() for each in variables if each.startswith(b"RELEASE=")), "none")


class Images:
    """Of containers: the platform's image by several names. One is the database's, in which no service starts."""

    setting = "DEPLOYMENT_IMAGES"

    def __init__(self, engine: DockerClient) -> None:
        self._engine = engine
        self._repository = f"localhost/dotmac-test-{secrets.token_hex(4)}"
        self._made: set[str] = set()

    def known_as(self, release: str) -> str:
        name = f"{self._repository}:{release}"
        image = servers.POSTGRES_IMAGE if release == "broken" else servers.IMAGE
        self._engine.images.get(image).tag(self._repository, release)
        self._made.add(name)
        return name

    def of(self, tenant: str) -> dict[str, str]:
        instances = {part: each for part, each in parts_of(self._engine, tenant).items() if part != DATABASE}
        images = {each: self._engine.containers.get(each).attrs["Config"]["Image"] for each in instances.values()}
        return {each: image.rpartition(":")[2] for each, image in images.items()}

    def remove(self) -> None:
        for name in self._made:
            self._engine.images.remove(name)


class Installed(NamedTuple):
    """Provisioning with chosen releases of instances at a target."""

    stack: Stack
    target: str
    releases: Releases
    crash_file: Path

    def with_releases(self, *names: str) -> AbstractAsyncContextManager[None]:
        """Have provisioning run with these, the newest first, until the context is left."""
        known = {name: self.releases.known_as(name) for name in names}
        settings = {self.releases.setting: json.dumps(known), "DEPLOYMENT_LEASE_SECONDS": "1"}
        return mortal(self.stack, self.crash_file, **settings)

    def releases_of(self, tenant: str) -> list[str]:
        """Return of which releases a tenant's instances are."""
        return sorted(self.releases.of(tenant).values())


@pytest.fixture
def installed(request: pytest.FixtureRequest, stack: Stack, tmp_path: Path, target: str) -> Iterator[Installed]:
    crash_file = tmp_path / "provisioning.crash"
    if target == "process":
        yield Installed(stack, target, Environments(tmp_path), crash_file)
    else:
        images = Images(request.getfixturevalue("engine"))
        yield Installed(stack, target, images, crash_file)
        images.remove()


@asynccontextmanager
async def at_work(isp: Tenant) -> AsyncIterator[list[str]]:
    """Make customers and read them all the while; gives the names of those that were acknowledged.

    Whatever is not answered as it should be fails the test.
    """
    made: list[str] = []
    over = asyncio.Event()

    async def works(worker: int) -> None:
        number = 0
        while not over.is_set():
            name = f"w{worker}-{number}"
            body = {"name": name, "external_reference": name}
            (await isp.api.send("POST", f"{V1}/customers", body)).expect(201)
            made.append(name)
            (await isp.api.send("GET", f"{V1}/billing-workspace")).expect(200)
            number += 1

    async with asyncio.TaskGroup() as group:
        for worker in range(3):
            group.create_task(works(worker))
        try:
            yield made
        finally:
            over.set()


async def all_there(isp: Tenant, made: list[str]) -> None:
    """Return once each customer that was acknowledged has its billing account, and there is no other."""

    async def names(path: str, key: str) -> list[str]:
        found: list[str] = []
        params: dict[str, Any] = {"limit": 200}
        while True:
            page = (await isp.api.send("GET", f"{V1}/{path}", params=params)).expect(200)
            found += [item[key] for item in page["items"]]
            if page["next_cursor"] is None:
                return sorted(found)
            params["cursor"] = page["next_cursor"]

    assert await names("customers", "name") == sorted(made)

    async def accounts() -> bool:
        return len(await names("billing-accounts", "id")) == len(made)

    await eventually(accounts)


@OWN
async def test_a_tenant_is_upgraded_scaled_and_rolled_back_while_it_works(
    stack: Stack, public: Api, platform: Api, installed: Installed
) -> None:
    async with installed.with_releases("1"):
        isp = await deploy(public, platform, installed.target)
        await settled(stack, isp.id)
        assert installed.releases_of(isp.id) == ["1", "1"]
        back = await ended(platform, await ordered(platform, isp.id, operation="roll_back"))
        assert (back["status"], back["failed_step"]) == ("failed", "replace_instances")
        assert back["reason"] == "there is nothing to go back to: its instances were never replaced"
        await settled(stack, isp.id)
    async with installed.with_releases("2", "1"):

        async def as_it_was() -> bool:
            # A newer release is no reason to leave the one it has.
            return installed.releases_of(isp.id) == ["1", "1"] and await both_answer(isp)

        await eventually(as_it_was)
        async with at_work(isp) as made:
            await done(platform, stack, isp.id, operation="upgrade")
            assert installed.releases_of(isp.id) == ["2", "2"]
            await done(platform, stack, isp.id, operation="roll_back")
            assert installed.releases_of(isp.id) == ["1", "1"]
            await done(platform, stack, isp.id, operation="scale", instances=2)
            assert installed.releases_of(isp.id) == ["1"] * 4
        await all_there(isp, made)
        await leaves(stack, platform, isp.id)


@OWN
async def test_an_upgrade_that_fails_is_undone_and_nobody_notices(
    stack: Stack, public: Api, platform: Api, installed: Installed
) -> None:
    async with installed.with_releases("1", "broken"):
        isp = await deploy(public, platform, installed.target)
        await settled(stack, isp.id)
        before = installed.releases.of(isp.id)
        wrong = await ended(platform, await ordered(platform, isp.id, operation="upgrade", release="9"))
        assert (wrong["status"], wrong["failed_step"]) == ("failed", "migrate")
        assert wrong["reason"] == f"there is no release 9 at the target {installed.target}, but 1, broken"
        await settled(stack, isp.id)
        async with at_work(isp) as made:
            # What migrates does not start, or in containers, where provisioning does that, what it has added.
            fails = "migrate" if installed.target == "process" else "replace_instances"
            deployment = await ordered(platform, isp.id, operation="upgrade", release="broken")
            await at(platform, deployment, fails)
            await time_is_over(stack, deployment)
            await failing(platform, deployment, fails)
            assert (await ended(platform, deployment))["status"] == "failed"
            await settled(stack, isp.id)
            after = installed.releases.of(isp.id)
            # What was being replaced is of the release that it was of, and anew.
            assert (after == before) is (fails == "migrate")
            assert list(after.values()) == ["1", "1"]
            # One that is given up half-way takes away what it has added.
            deployment = await ordered(platform, isp.id, operation="scale", instances=2)
            await at(platform, deployment, "replace_instances")
            (await platform.send("POST", f"{V1}/deployments/{deployment}/cancel")).expect(200)
            found = await ended(platform, deployment)
            assert [step["status"] for step in found["steps"]] == ["compensated", "pending"]
            await settled(stack, isp.id)
            assert installed.releases.of(isp.id) == after
        await all_there(isp, made)
        await leaves(stack, platform, isp.id)


REPLACED = [
    *STEP,  # it is migrated
    *around("choice"),
    ("after record", 1),
    *TOLD,  # the route to those that are new
    *TOLD,  # it was verified
]


@OWN
async def test_an_upgrade_goes_on_in_spite_of_crashes(
    stack: Stack, public: Api, platform: Api, installed: Installed
) -> None:
    async with installed.with_releases("1"):
        isp = await deploy(public, platform, installed.target)
        await settled(stack, isp.id)
    async with installed.with_releases("2", "1"):
        arm(installed.crash_file, *REPLACED[0])
        deployment = await ordered(platform, isp.id, operation="upgrade")
        await crashed_at_each(stack, installed.crash_file, REPLACED[1:])
        assert (await ended(platform, deployment))["status"] == "succeeded"
        await settled(stack, isp.id)

        async def upgraded() -> bool:  # processes ended with provisioning, which has them start anew
            return installed.releases_of(isp.id) == ["2", "2"]

        await eventually(upgraded)
        await leaves(stack, platform, isp.id)


async def test_processes_that_come_with_a_new_release_of_provisioning_find_the_databases_that_it_needs(
    stack: Stack, public: Api, platform: Api
) -> None:
    isp = await deploy(public, platform, "process")
    await settled(stack, isp.id)
    wanted = versions_of("billing").get_current_head()
    async with past_security(stack, f"billing_{UUID(isp.id).hex}") as database:
        async with away(stack, "provisioning"):
            await database.execute(
                "drop schema public cascade; create schema public; grant usage on schema public to public"
            )
            await database.execute(f"alter schema public owner to billing_{UUID(isp.id).hex}_owner")
        found = partial(database.fetchval, "select version_num from alembic_version")

        async def migrated() -> bool:
            with suppress(asyncpg.UndefinedTableError):
                return bool(await found() == wanted)
            return False

        await eventually(migrated)
    await leaves(stack, platform, isp.id)


async def test_what_only_instances_of_ones_own_can_have_is_refused_elsewhere(
    stack: Stack, platform: Api, public: Api
) -> None:
    isp = await deploy(public, platform, "pooled")
    await settled(stack, isp.id)
    path = f"{V1}/tenants/{isp.id}/deployments"
    for order in ({"operation": "upgrade"}, {"operation": "scale", "instances": 2}, {"operation": "roll_back"}):
        answer = await platform.send("POST", path, order)
        answer.problem(409, "wrong-state")
        assert "no instances of its own" in answer.body["detail"]
    for order in (
        {"operation": "scale"},
        {"operation": "scale", "instances": 0},
        {"operation": "scale", "instances": 9},
        {"operation": "upgrade", "instances": 2},
        {"operation": "suspend", "release": "1"},
        {"operation": "upgrade", "release": "../1"},
    ):
        (await platform.send("POST", path, order)).problem(422)
    plan = {"operation": "upgrade", "target": "pooled"}
    (await platform.send("GET", f"{V1}/deployments/plan", params=plan)).problem(422, "unknown-operation")
    plan["target"] = "process"
    steps = (await platform.send("GET", f"{V1}/deployments/plan", params=plan)).expect(200)["steps"]
    assert [step["name"] for step in steps] == ["migrate", "replace_instances", "verify"]
