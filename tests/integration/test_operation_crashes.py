"""Provisioning killed between and inside the steps of suspend, resume and deprovision: each ends as it was meant to."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.stack.stack import Stack
from tests.api import Api
from tests.crashes import SHARED_ONLY, arm, crashed, mortal
from tests.deployments import done, ended, ordered, prepared, settled, status_of
from tests.world import fits

INSIDE = [
    ("before inbox insert", 1),
    ("after inbox insert", 2),
    ("before send", 1),
    ("after acknowledgement", 1),
    ("before outbox delete", 1),
]


def around(step: str, passages: list[int]) -> list[tuple[str, int]]:
    return [(f"{when} {step}", passage) for passage in passages for when in ("before", "after")]


# What provisioning hears: the order, the transition. What it does by itself: start, and each look at the gateway.
SUSPEND = [*around("effect commit", [1, 2]), *around("domain commit", [1, 2]), *INSIDE]
RESUME = [*around("effect commit", [1, 2]), *around("domain commit", [1, 2, 3])]
# The order, the transition, the first answer to the export; what follows may come together or one by one.
DEPROVISION = [*around("effect commit", [1, 2, 3]), *around("domain commit", [1, 2]), *INSIDE, ("before send", 5)]
# With each of these a step ends and the next one begins, and after it come that one's answers.
TOLD = [("DataDeletionRequested", 1), ("DataDeletionRequested", 2), ("TenantTransitionRequested", 2)]
STEPS = [
    *((point, passage, since) for point, passage in around("effect commit", [1, 2]) for since in TOLD),
    *((point, passage, ("DeploymentSucceeded", 1)) for point, passage in around("effect commit", [1])),
]


@pytest.fixture(scope="module")
async def crash_file(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    file = tmp_path_factory.mktemp("crash") / "provisioning.crash"
    async with mortal(stack, file, **SHARED_ONLY):
        yield file


@pytest.fixture(scope="module", autouse=True)
def began() -> datetime:
    """Return when these tests began: what others left behind is not theirs."""
    return datetime.now(UTC) - timedelta(seconds=1)


@pytest.fixture(scope="module")
async def tenant_id(stack: Stack, platform: Api, crash_file: Path) -> str:
    """Return a tenant that is closed and opened again and again."""
    return await prepared(stack, platform, "deploy")


async def killed_at(
    stack: Stack,
    platform: Api,
    file: Path,
    tenant: str,
    operation: str,
    point: str,
    passage: int,
    since: tuple[str, int] | None = None,
) -> None:
    """Do an operation, killed at a point on its way; it succeeds, and each of its steps did."""
    arm(file, point, passage, since)
    deployment = await ordered(platform, tenant, operation=operation, grace_seconds=0)
    await crashed(stack, file)
    found = await ended(platform, deployment)
    assert (found["status"], found["reason"]) == ("succeeded", None)
    assert {step["status"] for step in found["steps"]} == {"succeeded"}
    await settled(stack, tenant)


@pytest.mark.parametrize(("point", "passage"), SUSPEND, ids=lambda value: str(value).replace(" ", "-"))
async def test_a_tenant_is_suspended_in_spite_of_a_crash(
    stack: Stack, platform: Api, crash_file: Path, tenant_id: str, point: str, passage: int
) -> None:
    await killed_at(stack, platform, crash_file, tenant_id, "suspend", point, passage)
    assert await status_of(platform, tenant_id) == "suspended"
    await done(platform, stack, tenant_id, operation="resume")


@pytest.mark.parametrize(("point", "passage"), RESUME, ids=lambda value: str(value).replace(" ", "-"))
async def test_a_tenant_is_resumed_in_spite_of_a_crash(
    stack: Stack, platform: Api, crash_file: Path, tenant_id: str, point: str, passage: int
) -> None:
    await done(platform, stack, tenant_id, operation="suspend")
    await killed_at(stack, platform, crash_file, tenant_id, "resume", point, passage)
    assert await status_of(platform, tenant_id) == "active"


@pytest.mark.parametrize(("point", "passage"), DEPROVISION, ids=lambda value: str(value).replace(" ", "-"))
async def test_a_tenant_leaves_in_spite_of_a_crash(
    stack: Stack, platform: Api, crash_file: Path, point: str, passage: int
) -> None:
    tenant = await prepared(stack, platform, "deploy")
    await killed_at(stack, platform, crash_file, tenant, "deprovision", point, passage)
    assert await status_of(platform, tenant) == "deprovisioned"


@pytest.mark.parametrize(("point", "passage", "since"), STEPS, ids=lambda value: str(value).replace(" ", "-"))
async def test_a_tenant_leaves_in_spite_of_a_crash_at_a_step(
    stack: Stack, platform: Api, crash_file: Path, point: str, passage: int, since: tuple[str, int]
) -> None:
    tenant = await prepared(stack, platform, "deploy")
    await killed_at(stack, platform, crash_file, tenant, "deprovision", point, passage, since)
    assert await status_of(platform, tenant) == "deprovisioned"


async def test_nothing_is_left_behind(stack: Stack, began: datetime) -> None:
    await fits(stack, began, [])
