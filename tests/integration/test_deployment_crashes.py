"""Provisioning killed between and inside the steps of a deployment: each ends, and leaves nothing behind."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.conftest import registration
from tests.crashes import SHARED_ONLY, arm, crashed, mortal
from tests.deployments import ended, ordered, past_security, settled
from tests.world import Orphan, fits

V1 = "/api/v1"
# What provisioning hears: the order, two workspaces (together or one by one), the administrator, which is asked for
# with the last of them. What it does by itself: start, verify.
HEARD, OWN = 3, 2
ASKED = ("AdministratorRequested", 1)
BOUNDARIES = [
    *((f"{when} effect commit", passage, None) for when in ("before", "after") for passage in range(1, HEARD + 1)),
    *((f"{when} effect commit", passage, ASKED) for when in ("before", "after") for passage in (1, 2)),
    *((f"{when} domain commit", passage, None) for when in ("before", "after") for passage in range(1, OWN + 1)),
]
INSIDE = [
    ("before inbox insert", 1, None),
    ("after inbox insert", 3, None),
    ("before send", 1, None),
    ("after acknowledgement", 1, None),
    ("before outbox delete", 1, None),
]


@pytest.fixture(scope="module")
async def crash_file(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    file = tmp_path_factory.mktemp("crash") / "provisioning.crash"
    async with mortal(stack, file, **SHARED_ONLY):
        yield file


async def registered(platform: Api) -> str:
    found: str = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)["id"]
    return found


@pytest.mark.parametrize(
    ("point", "passage", "since"), [*BOUNDARIES, *INSIDE], ids=lambda value: str(value).replace(" ", "-")
)
async def test_a_deployment_survives_a_crash(
    stack: Stack, platform: Api, crash_file: Path, point: str, passage: int, since: tuple[str, int] | None
) -> None:
    tenant = await registered(platform)
    arm(crash_file, point, passage, since)
    deployment = await ordered(platform, tenant)
    await crashed(stack, crash_file)
    found = await ended(platform, deployment)
    assert (found["status"], found["reason"]) == ("succeeded", None)
    await settled(stack, tenant)


@pytest.mark.parametrize(("point", "passage"), [("before effect commit", 1)])
async def test_one_that_is_undone_is_undone_to_its_end_in_spite_of_a_crash(
    stack: Stack, platform: Api, crash_file: Path, point: str, passage: int
) -> None:
    tenant = await registered(platform)
    direct, at_tenant = (replace(platform, url=stack.url(name)) for name in ("provisioning", "tenant"))
    await stack.children["gateway"].stop()
    try:
        deployment = await ordered(at_tenant, tenant)

        async def verifying() -> Any:
            return (await direct.send("GET", f"{V1}/deployments/{deployment}")).expect(200)["steps"][3]["detail"]

        await eventually(verifying)
        arm(crash_file, point, passage)  # when it hears that a step is undone
        (await direct.send("POST", f"{V1}/deployments/{deployment}/cancel")).expect(200)
        await crashed(stack, crash_file)
        found = await ended(direct, deployment)
    finally:
        await stack.start_service("gateway")
    assert found["status"] == "failed"
    assert [step["status"] for step in found["steps"]] == ["succeeded", "compensated", "compensated", "failed"]
    await settled(stack, tenant)


@pytest.fixture(scope="module", autouse=True)
def began() -> datetime:
    """Return when these tests began: what others left behind is not theirs."""
    return datetime.now(UTC) - timedelta(seconds=1)


async def test_nothing_is_left_behind_and_what_is_planted_is_found(
    stack: Stack, platform: Api, began: datetime
) -> None:
    await fits(stack, began, [])
    tenant, nobody, deployment = await registered(platform), uuid4(), uuid4()
    assert (await ended(platform, await ordered(platform, tenant)))["status"] == "succeeded"
    await settled(stack, tenant)
    await fits(stack, began, [])
    async with (
        past_security(stack, "customer") as customer,
        past_security(stack, "billing") as billing,
        past_security(stack, "provisioning") as provisioning,
    ):
        try:
            await customer.execute(
                "insert into workspace (tenant_id, deployment_id, name, country, time_zone)"
                " values ($1, $2, 'Nobody', 'US', 'UTC')",
                nobody,
                deployment,
            )
            await billing.execute("update workspace set removed_at = now() where tenant_id = $1", UUID(tenant))
            await provisioning.execute(
                "insert into deployment (tenant_id, deployment_id, target, status, request, steps, version)"
                " values ($1, $2, 'pooled', 'running', '{}', '[]', 0)",
                nobody,
                deployment,
            )
            await fits(
                stack,
                began,
                sorted(
                    [
                        Orphan(str(nobody), "customer workspace of no tenant"),
                        Orphan(tenant, "billing workspace missing"),
                        Orphan(str(nobody), f"deployment {deployment} is running"),
                        Orphan(str(nobody), f"deployment {deployment} of no tenant"),
                    ]
                ),
            )
        finally:
            await customer.execute("delete from workspace where tenant_id = $1", nobody)
            await billing.execute("update workspace set removed_at = null where tenant_id = $1", UUID(tenant))
            await provisioning.execute("delete from deployment where tenant_id = $1", nobody)
    await fits(stack, began, [])
