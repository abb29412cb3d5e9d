"""Provisioning killed again and again while a tenant comes to a place of its own, and leaves it.

Before, inside and after each step that the target does, at one deployment: it is killed as soon as it is back.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from chassis.persistence.migrations import versions_of
from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.crashes import arm, crashed_at_each, mortal
from tests.deployments import ended, ordered, prepared, settled, status_of
from tests.integration.test_operation_failures import at, away
from tests.integration.test_targets import ALL, NOTHING, own_things
from tests.world import fits

V1 = "/api/v1"


def around(what: str, passage: int = 1) -> list[tuple[str, int]]:
    return [(f"before {what}", passage), (f"after {what}", passage)]


HALF_MIGRATED = len(list(versions_of("customer").walk_revisions())) + 2
"""All of customer's versions, and the first of billing's."""
HEARD, STEP, TOLD = around("effect commit"), around("step commit"), around("domain commit")
"""The end of a step that others do, of one that provisioning does, and of what tells others of it."""
ROUTED = [*TOLD, *STEP]


class Points(NamedTuple):
    """Where it is killed while databases are made and migrated, and while they are removed."""

    made: list[tuple[str, int]]
    migrated: list[tuple[str, int]]
    removed: list[tuple[str, int]]


TARGETS = {
    # The databases of the two services, each with its four roles.
    "process": Points(
        [("before definition", 1), ("after definition", 5), ("after definition", 9)],
        [("after fork", 1), ("after fork", 2)],
        [("before definition", 1), ("after definition", 1), ("after definition", 6)],
    ),
    # Their server in a container before that: a network, a volume, and the container's creation and start.
    "container": Points(
        [*around("engine change"), ("after engine change", 3), ("before definition", 1), ("after definition", 6)],
        [("before migration", 1), ("before migration", HALF_MIGRATED)],
        [("before engine change", 1), ("after engine change", 2)],
    ),
}


def deployed(target: str) -> list[tuple[str, int]]:
    return [
        *HEARD,  # of the order
        *TOLD,  # it is its turn
        *[*TARGETS[target].made, *STEP],
        *[*TARGETS[target].migrated, *STEP],
        *[*around("wish"), *around("record"), *TOLD],  # of its instances
        *HEARD,  # of a workspace
        *ROUTED,
        *TOLD,  # it was verified
    ]


def undone(target: str) -> list[tuple[str, int]]:
    return [
        *ROUTED,
        *HEARD,  # of the administrator
        *STEP,  # its instances are stopped
        *[*TARGETS[target].removed, *TOLD],
    ]


def left(target: str) -> list[tuple[str, int]]:
    return [
        *ROUTED,
        *STEP,  # its instances are stopped
        *[*TARGETS[target].removed, *TOLD],
        *HEARD,  # of the last transition
    ]


@pytest.fixture(scope="module", autouse=True)
def began() -> datetime:
    """Return when these tests began: what others left behind is not theirs."""
    return datetime.now(UTC) - timedelta(seconds=1)


@pytest.fixture(scope="module")
async def crash_file(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    file = tmp_path_factory.mktemp("crash") / "provisioning.crash"
    async with mortal(stack, file, DEPLOYMENT_LEASE_SECONDS="1"):
        yield file


async def succeeded(stack: Stack, platform: Api, tenant: str, deployment: str) -> None:
    """Return once a deployment has succeeded, and each of its steps."""
    found = await ended(platform, deployment)
    assert (found["status"], found["reason"]) == ("succeeded", None)
    assert {step["status"] for step in found["steps"]} == {"succeeded"}
    await settled(stack, tenant)


async def has_all(stack: Stack, tenant: str, target: str) -> None:
    """Return once a tenant has all that is its own: processes end with provisioning, which has them start anew."""

    async def so() -> bool:
        return await own_things(stack, tenant) == ALL[target]

    await eventually(so)


@pytest.mark.parametrize("target", TARGETS, indirect=True)
async def test_a_tenant_comes_and_goes_in_spite_of_crashes(
    stack: Stack, platform: Api, crash_file: Path, began: datetime, target: str
) -> None:
    tenant = await prepared(stack, platform)
    first, *others = deployed(target)
    arm(crash_file, *first)
    deployment = await ordered(platform, tenant, target=target)
    await crashed_at_each(stack, crash_file, others)
    await succeeded(stack, platform, tenant, deployment)
    await has_all(stack, tenant, target)
    first, *others = left(target)
    arm(crash_file, *first, since=("DataDeletionRequested", 2))  # what comes before is the same at every target
    deployment = await ordered(platform, tenant, operation="deprovision", grace_seconds=0)
    await crashed_at_each(stack, crash_file, others)
    await succeeded(stack, platform, tenant, deployment)
    assert await status_of(platform, tenant) == "deprovisioned"
    assert await own_things(stack, tenant) == NOTHING
    await fits(stack, began, [])


@pytest.mark.parametrize("target", TARGETS, indirect=True)
async def test_one_that_is_given_up_is_undone_in_spite_of_crashes(
    stack: Stack, platform: Api, crash_file: Path, began: datetime, target: str
) -> None:
    tenant = await prepared(stack, platform)
    direct, at_tenant = (replace(platform, url=stack.url(name)) for name in ("provisioning", "tenant"))
    async with away(stack, "gateway"):
        deployment = await ordered(at_tenant, tenant, target=target)
        await at(direct, deployment, "verify")
        first, *others = undone(target)
        arm(crash_file, *first)
        (await direct.send("POST", f"{V1}/deployments/{deployment}/cancel")).expect(200)
        await crashed_at_each(stack, crash_file, others)
        found = await ended(direct, deployment)
    assert (found["status"], found["failed_step"]) == ("failed", "verify")
    assert {step["status"] for step in found["steps"][:-1]} == {"succeeded", "compensated"}
    await settled(stack, tenant)
    assert await status_of(platform, tenant) == "failed"
    assert await own_things(stack, tenant) == NOTHING
    await fits(stack, began, [])
