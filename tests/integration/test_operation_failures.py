"""Every step of every operation failed for good: what was begun is undone or, past the first deletion, gone on with."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.deployments import ended, ordered, past_security, prepared, settled, status_of, unwritable
from tests.integration.test_deprovision import exported
from tests.world import fits

V1 = "/api/v1"
FAILS = [
    ("deploy", "prepare_workspaces", ["succeeded", "compensated", "pending", "pending"], "failed"),
    ("deploy", "create_administrator", ["succeeded", "compensated", "compensated", "pending"], "failed"),
    ("deploy", "verify", ["succeeded", "compensated", "compensated", "failed"], "failed"),
    ("suspend", "close_access", ["compensated", "pending"], "active"),
    ("suspend", "verify_closed", ["compensated", "failed"], "active"),
    ("maintain", "close_access", ["compensated", "pending"], "active"),
    ("maintain", "verify_closed", ["compensated", "failed"], "active"),
    ("resume", "verify", ["failed", "pending", "pending"], "suspended"),
    ("resume", "open_access", ["succeeded", "compensated", "pending"], "suspended"),
    ("resume", "verify_open", ["succeeded", "compensated", "failed"], "suspended"),
    ("deprovision", "close_access", ["compensated", *["pending"] * 5], "active"),
    ("deprovision", "verify_closed", ["compensated", "failed", *["pending"] * 4], "active"),
]


@pytest.fixture(scope="module", autouse=True)
def began() -> datetime:
    """Return when these tests began: what others left behind is not theirs."""
    return datetime.now(UTC) - timedelta(seconds=1)


@contextlib.asynccontextmanager
async def away(stack: Stack, name: str) -> AsyncIterator[None]:
    await stack.children[name].stop()
    try:
        yield
    finally:
        await stack.start_service(name)


def silenced(stack: Stack, name: str) -> contextlib.AbstractAsyncContextManager[None]:
    """Have nobody answer to a step."""
    match name:
        case "prepare_workspaces":
            return away(stack, "billing")
        case "create_administrator":
            return unwritable(stack, "tenant", "app_user")
        case "close_access" | "open_access":
            return unwritable(stack, "tenant", "tenant_transition")
        case _:
            return away(stack, "gateway")


async def at(direct: Api, deployment: str, name: str) -> None:
    """Return once a step runs."""

    async def running() -> bool:
        found = (await direct.send("GET", f"{V1}/deployments/{deployment}")).expect(200)
        return any((step["name"], step["status"]) == (name, "running") for step in found["steps"])

    await eventually(running)


async def at_the_last_answer(api: Api, deployment: str, name: str) -> None:
    """Return once three of the four services have answered to a step."""

    async def three() -> bool:
        found = (await api.send("GET", f"{V1}/deployments/{deployment}")).expect(200)
        detail = next(step["detail"] for step in found["steps"] if step["name"] == name)
        return bool(detail and detail.count(";") == 2)

    await eventually(three)


async def time_is_over(stack: Stack, deployment: str, key: str = "since") -> None:
    """Have the step that runs be over its time: as if it had begun, or its grace ended, an hour ago."""
    async with past_security(stack, "provisioning") as database:
        changed = await database.execute(
            "update deployment d set next_check_at = now(), steps = jsonb_set(d.steps, array[(x.nr - 1)::text, $2],"
            " to_jsonb(now() - interval '1 hour')) from deployment e, jsonb_array_elements(e.steps) with ordinality"
            " as x (step, nr) where e.deployment_id = $1 and d.deployment_id = e.deployment_id"
            " and x.step->>'status' = 'running'",
            UUID(deployment),
            key,
        )
        assert changed == "UPDATE 1"


async def failing(direct: Api, deployment: str, name: str) -> None:
    """Return once a step has failed, whatever is to be undone still."""

    async def failed() -> bool:
        found = (await direct.send("GET", f"{V1}/deployments/{deployment}")).expect(200)
        return bool(found["failed_step"] == name)

    await eventually(failed)


@pytest.mark.parametrize(("operation", "name", "statuses", "becomes"), FAILS)
async def test_a_step_that_fails_for_good_is_undone_with_all_before_it(
    stack: Stack, platform: Api, began: datetime, operation: str, name: str, statuses: list[str], becomes: str
) -> None:
    before = {"deploy": [], "resume": ["deploy", "suspend"]}.get(operation, ["deploy"])
    tenant = await prepared(stack, platform, *before)
    direct, at_tenant = (replace(platform, url=stack.url(each)) for each in ("provisioning", "tenant"))
    async with contextlib.AsyncExitStack() as until_it_failed:
        # What was ordered waits until nobody is there who would answer.
        async with away(stack, "provisioning"):
            deployment = await ordered(at_tenant, tenant, operation=operation, grace_seconds=0)
            first = "open_access" if name == "verify_open" else name
            blocked = await until_it_failed.enter_async_context(contextlib.AsyncExitStack())
            await blocked.enter_async_context(silenced(stack, first))
        if first != name:  # the gateway is there for the first step, and away for the last
            await at(direct, deployment, first)
            await until_it_failed.enter_async_context(silenced(stack, name))
            await blocked.aclose()
        await at(direct, deployment, name)
        await time_is_over(stack, deployment)
        await failing(direct, deployment, name)
    found = await ended(platform, deployment)
    assert (found["status"], found["failed_step"]) == ("failed", name)
    assert f"{name} gave up after" in found["reason"]
    assert [step["status"] for step in found["steps"]] == statuses
    await settled(stack, tenant)
    assert await status_of(platform, tenant) == becomes
    await fits(stack, began, [])
    # And it can be done: nothing of the failure stands in its way.
    (await platform.send("POST", f"{V1}/deployments/{deployment}/retry")).expect(200)
    assert (await ended(platform, deployment))["status"] == "succeeded"
    await settled(stack, tenant)
    await fits(stack, began, [])


async def test_an_export_that_fails_for_good_lets_the_tenant_stay(stack: Stack, platform: Api, began: datetime) -> None:
    tenant = await prepared(stack, platform, "deploy", "maintain")
    deployment = await leaving(stack, platform, tenant)
    async with away(stack, "integration"):
        await time_is_over(stack, deployment, "until")
        await at_the_last_answer(platform, deployment, "export_data")
        await time_is_over(stack, deployment)
        found = await ended(platform, deployment)
    assert found["reason"] == "export_data gave up after 600 s: no answer from integration"
    assert [step["status"] for step in found["steps"]] == [
        *("compensated", "succeeded", "succeeded", "failed"),
        *["pending"] * 3,
    ]
    await settled(stack, tenant)
    assert await status_of(platform, tenant) == "maintenance"  # where it was
    await fits(stack, began, [])


async def leaving(stack: Stack, platform: Api, tenant: str) -> str:
    """Have a tenant leave, and return the deployment when it waits for its grace."""
    deployment = await ordered(platform, tenant, operation="deprovision", grace_seconds=3600)
    await at(platform, deployment, "grace")
    return deployment


async def gone_on_with(stack: Stack, platform: Api, began: datetime, tenant: str, deployment: str) -> None:
    """See that one that has begun to delete is not undone, and is gone on with to its end."""
    await settled(stack, tenant)
    assert await status_of(platform, tenant) in ("deprovisioning", "deprovisioned")
    (await platform.send("POST", f"{V1}/deployments/{deployment}/cancel")).problem(409, "wrong-state")
    (await platform.send("POST", f"{V1}/deployments/{deployment}/retry")).expect(200)
    found = await ended(platform, deployment)
    assert (found["status"], found["reason"]) == ("succeeded", None)
    await settled(stack, tenant)
    assert await status_of(platform, tenant) == "deprovisioned"
    assert exported(stack, tenant, deployment).is_dir()
    await fits(stack, began, [])


@pytest.mark.parametrize(
    ("name", "service", "table", "done_before"),
    [("delete_data", "customer", "workspace", 4), ("retire", "tenant", "tenant_transition", 6)],
)
async def test_past_the_first_deletion_a_step_that_fails_for_good_is_gone_on_with(
    stack: Stack, platform: Api, began: datetime, name: str, service: str, table: str, done_before: int
) -> None:
    tenant = await prepared(stack, platform, "deploy")
    deployment = await leaving(stack, platform, tenant)
    async with unwritable(stack, service, table):
        await time_is_over(stack, deployment, "until")
        await at(platform, deployment, name)
        if name == "delete_data":
            await at_the_last_answer(platform, deployment, name)
        await time_is_over(stack, deployment)
        found = await ended(platform, deployment)
        assert (found["status"], found["failed_step"]) == ("failed", name)
        assert found["reason"].endswith(f"no answer from {service}")
        assert [step["status"] for step in found["steps"]] == [
            *["succeeded"] * done_before,
            "failed",
            *["pending"] * (6 - done_before),
        ]
    await gone_on_with(stack, platform, began, tenant, deployment)


async def test_a_row_that_stays_fails_the_proof(stack: Stack, platform: Api, began: datetime) -> None:
    tenant = await prepared(stack, platform, "deploy")
    async with past_security(stack, "billing") as database:
        await database.execute(
            "create function stays() returns trigger language plpgsql as $$ begin"
            f" return case when old.tenant_id = '{UUID(tenant)}' then null else old end; end $$"
        )
        await database.execute("create trigger stays before delete on plan for each row execute function stays()")
        try:
            deployment = await ordered(platform, tenant, operation="deprovision", grace_seconds=0)
            found = await ended(platform, deployment)
        finally:
            await database.execute("drop trigger stays on plan")
            await database.execute("drop function stays")
    assert (found["status"], found["failed_step"]) == ("failed", "prove_deletion")
    assert found["reason"] == "billing has rows left: {'plan': 3}"
    assert [step["status"] for step in found["steps"]] == [*["succeeded"] * 4, "failed", "pending"]
    await gone_on_with(stack, platform, began, tenant, deployment)
