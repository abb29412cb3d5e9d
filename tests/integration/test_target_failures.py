"""Each step of a deployment to a place of a tenant's own is given up half-way: nothing of it is left."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from chassis.persistence.database import LOST
from deploy.roles import login
from deploy.stack.stack import Stack
from services.provisioning.domain.saga import RECIPES
from services.provisioning.instances import InstanceError, named
from tests.api import Api, eventually
from tests.deployments import ended, ordered, placed, prepared, server_of, settled, status_of, unwritable
from tests.integration.test_operation_failures import at
from tests.integration.test_targets import NOTHING, own_things
from tests.world import fits

V1 = "/api/v1"
STEPS = (
    "create_databases",
    "migrate",
    "start_instances",
    "prepare_workspaces",
    "create_administrator",
    "assign_route",
)


@pytest.fixture(scope="module", autouse=True)
def began() -> datetime:
    """Return when these tests began: what others left behind is not theirs."""
    return datetime.now(UTC) - timedelta(seconds=1)


@contextlib.asynccontextmanager
async def server_without_databases(stack: Stack, tenant: str) -> AsyncIterator[str]:
    """Return where the server of a tenant in containers is, as long as provisioning is kept from making databases."""

    async def made() -> str | None:
        with contextlib.suppress(InstanceError):
            return await server_of(stack, tenant, "container")
        return None

    async def answers() -> bool:
        with contextlib.suppress(*LOST):
            await (await asyncpg.connect(url)).close()
            return True
        return False

    url = await eventually(made)
    provisioning = stack.children["provisioning"].pid
    assert provisioning is not None
    os.kill(provisioning, signal.SIGSTOP)
    try:
        await eventually(answers)
        yield url
    finally:
        os.kill(provisioning, signal.SIGCONT)


async def spoil_role(server_url: str, tenant: str, name: str) -> None:
    """Have there be a role of the tenant's already with which a step can't be done."""
    own = named("billing", UUID(tenant))
    server = await asyncpg.connect(server_url)
    try:
        # Row-level security binds no superuser; and who may not connect can't migrate.
        made = {"create_databases": ("api", "superuser"), "migrate": ("owner", "login connection limit 0")}[name]
        await server.execute(f"create role {login(own, made[0])} {made[1]}")
    finally:
        await server.close()


async def ordered_and_stopped_at(
    stack: Stack, platform: Api, tenant: str, target: str, name: str, until_given_up: contextlib.AsyncExitStack
) -> str:
    """Order a deployment, and return it when it can't go on at a step."""
    hold = until_given_up.enter_async_context
    match name:
        case "create_databases" | "migrate":
            if target == "process":
                await spoil_role(stack.server_url, tenant, name)
            deployment = await ordered(platform, tenant, target=target)
            if target == "container":
                async with server_without_databases(stack, tenant) as url:
                    await spoil_role(url, tenant, name)
        case "start_instances":
            await hold(unwritable(stack, "provisioning", "instance"))
            deployment = await ordered(platform, tenant, target=target)
        case "prepare_workspaces":
            deployment = await ordered(platform, tenant, target=target)
            await at(platform, deployment, "start_instances")
            database = await hold(placed(stack, "billing", tenant, target))
            await hold(database.transaction())
            await database.execute("lock table workspace in share mode")
        case "create_administrator":
            await hold(unwritable(stack, "tenant", "app_user"))
            deployment = await ordered(platform, tenant, target=target)
        case "assign_route":
            async with unwritable(stack, "tenant", "app_user"):
                deployment = await ordered(platform, tenant, target=target)
                await at(platform, deployment, "create_administrator")
                await hold(unwritable(stack, "provisioning", "instance"))
    await at(platform, deployment, name)
    return deployment


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("target", ["process", "container"], indirect=True)
async def test_a_step_that_is_given_up_is_undone_with_all_before_it(
    stack: Stack, platform: Api, began: datetime, target: str, name: str
) -> None:
    tenant = await prepared(stack, platform)
    async with contextlib.AsyncExitStack() as until_given_up:
        deployment = await ordered_and_stopped_at(stack, platform, tenant, target, name, until_given_up)
        (await platform.send("POST", f"{V1}/deployments/{deployment}/cancel", {"reason": "It hangs"})).expect(200)
    found = await ended(platform, deployment)
    assert (found["status"], found["failed_step"]) == ("failed", name)
    place = [step["name"] for step in found["steps"]].index(name)
    recipes = RECIPES[target]["deploy"]
    statuses = ["compensated" if recipe.undo else "succeeded" for recipe in recipes[:place]]
    last = "compensated" if recipes[place].undo else "failed"
    assert [step["status"] for step in found["steps"]] == [
        *statuses,
        last,
        *["pending"] * (len(recipes) - place - 1),
    ]
    await settled(stack, tenant)
    assert await status_of(platform, tenant) == "failed"
    assert await own_things(stack, tenant) == NOTHING
    await fits(stack, began, [])
