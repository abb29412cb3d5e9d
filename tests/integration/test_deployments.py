"""Deployments never hang, wait for their turn, can be steered, and are followed as they go."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from chassis.ids import PLATFORM_TENANT
from chassis.security.tokens import TokenIssuer
from deploy.stack.stack import Stack
from dotmac_contracts.tenant import GRACE_SECONDS
from services.provisioning.settings import DeploymentSettings
from services.provisioning.targets import TARGETS
from services.provisioning.targets.dedicated import rerouted
from services.provisioning.use_cases.work import Deployer
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy, registration
from tests.deployments import done, ended, ordered, past_security, settled, unwritable
from tests.feed import Reader
from tests.in_process import service_in_process
from tests.integration.test_operation_failures import at, away
from tests.integration.test_targets import leaves

V1 = "/api/v1"


async def registered(platform: Api) -> str:
    tenant = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)
    found: str = tenant["id"]
    return found


@contextlib.asynccontextmanager
async def provisioning(stack: Stack, **environment: str) -> AsyncIterator[None]:
    """Have it run with other settings, from the moment that it is left on: what was ordered inside waits until then."""
    await stack.children.pop("provisioning").stop()
    before = dict(stack.environment)
    try:
        yield
    finally:
        stack.environment.update(environment)
        await stack.start_service("provisioning")
        stack.environment.clear()
        stack.environment.update(before)


async def restored(stack: Stack) -> None:
    async with provisioning(stack):
        pass


async def log_of(platform: Api, deployment: str, **params: str) -> list[dict[str, Any]]:
    params = {"limit": "200", **params}
    answer = await platform.send("GET", f"{V1}/deployments/{deployment}/log", params=params)
    found: list[dict[str, Any]] = answer.expect(200)["items"]
    return found


async def moment(platform: Api, deployment: str, status: str) -> str:
    """Return when a deployment came to a status."""
    entries = await log_of(platform, deployment)
    found: str = next(entry["made_at"] for entry in entries if entry["step"] is None and entry["status"] == status)
    return found


async def row_of(stack: Stack, tenant: str, deployment: str) -> Any:
    connection = await asyncpg.connect(stack.database_url("provisioning", "consumer"))
    try:
        await connection.execute(f"set app.tenant_ids = '{tenant}'")
        return await connection.fetchrow("select * from deployment where deployment_id = $1", UUID(deployment))
    finally:
        await connection.close()


async def test_so_many_run_at_once_and_the_others_wait_for_their_turn(stack: Stack, platform: Api) -> None:
    tenants = [await registered(platform) for _ in range(8)]
    async with provisioning(stack, DEPLOYMENT_AT_ONCE="2"):
        deployments = [await ordered(platform, tenant) for tenant in tenants]
    try:
        for deployment in deployments:
            assert (await ended(platform, deployment))["status"] == "succeeded"
        times = [
            (await moment(platform, each, "running"), await moment(platform, each, "succeeded")) for each in deployments
        ]
    finally:
        await restored(stack)
    changes = sorted([(began, 1) for began, _ in times] + [(over, -1) for _, over in times])
    running = [sum(change for _, change in changes[: index + 1]) for index in range(len(changes))]
    assert max(running) <= 2
    assert [began for began, _ in times] == sorted(began for began, _ in times)  # in their order


async def test_a_tenant_that_had_many_turns_lets_others_go_first(stack: Stack, public: Api, platform: Api) -> None:
    busy = await deploy(public, platform)
    for operation in ("suspend", "resume"):
        await done(platform, stack, busy.id, operation=operation)
    others = [await registered(platform) for _ in range(2)]
    async with provisioning(stack, DEPLOYMENT_AT_ONCE="1"):
        of_the_busy = await ordered(platform, busy.id, operation="suspend")
        of_the_others = [await ordered(platform, tenant) for tenant in others]
    try:
        for deployment in (of_the_busy, *of_the_others):
            assert (await ended(platform, deployment))["status"] == "succeeded"
    finally:
        await restored(stack)
    began = [await moment(platform, each, "running") for each in (*of_the_others, of_the_busy)]
    assert began == sorted(began)


async def test_what_waits_in_the_queue_or_for_its_grace_is_cancelled_before_it_begins(
    stack: Stack, public: Api, platform: Api
) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    deployment = await ordered(platform, isp.id, operation="suspend", grace_seconds=3600)
    path = f"{V1}/deployments/{deployment}"
    assert (await platform.send("GET", path)).expect(200)["status"] == "waiting"
    cancelled = await platform.send("POST", f"{path}/cancel", {"reason": "They paid"})
    assert cancelled.expect(200)["status"] == "failed"
    assert cancelled.body["reason"] == "it was cancelled: They paid"
    (await platform.send("POST", f"{path}/cancel")).problem(409, "wrong-state")
    await settled(stack, isp.id)
    (await isp.api.send("GET", f"{V1}/customers")).expect(200)
    assert (await platform.send("GET", f"{V1}/tenants/{isp.id}")).expect(200)["status"] == "active"
    for reason in ("", 7, "x" * 201):
        (await platform.send("POST", f"{path}/cancel", {"reason": reason})).problem(422)
    (await isp.api.send("POST", f"{path}/cancel")).problem(403, "missing-scope")
    (await isp.api.send("POST", f"{path}/retry")).problem(403, "missing-scope")


@contextlib.asynccontextmanager
async def silent_gateway(stack: Stack) -> AsyncIterator[None]:
    """In place of the gateway, something that takes connections and never answers."""
    await stack.children["gateway"].stop()
    held: list[asyncio.StreamWriter] = []

    def take(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(take, "127.0.0.1", stack.ports["gateway"])
    try:
        yield
    finally:
        server.close()
        for writer in held:
            writer.transport.abort()
        await stack.start_service("gateway")


async def test_a_dead_workers_deployment_is_taken_over_within_seconds(stack: Stack, platform: Api) -> None:
    tenant = await registered(platform)
    at_tenant = replace(platform, url=stack.url("tenant"))

    async with silent_gateway(stack):
        deployment = await ordered(at_tenant, tenant)

        async def leased() -> Any:
            row = await row_of(stack, tenant, deployment)
            return row if row and row["leased_until"] else None

        first = await eventually(leased)

        async def renewed() -> bool:
            row = await leased()
            return bool(row and row["lease"] == first["lease"] and row["leased_until"] > first["leased_until"])

        await eventually(renewed)  # it lives, and keeps what it works on
        stack.children["provisioning"].kill()
        killed = time.monotonic()

        async def taken_over() -> bool:
            row = await leased()
            return bool(row and row["lease"] != first["lease"])

        await eventually(taken_over)
        assert time.monotonic() - killed < 15  # of which most is the start of a process
        await stack.wait_ready("provisioning")
    assert (await ended(platform, deployment))["status"] == "succeeded"


async def test_one_that_is_cancelled_is_undone_and_can_be_tried_again(stack: Stack, platform: Api) -> None:
    tenant = await registered(platform)
    direct, at_tenant = (replace(platform, url=stack.url(name)) for name in ("provisioning", "tenant"))
    await stack.children["gateway"].stop()
    try:
        deployment = await ordered(at_tenant, tenant)
        path = f"{V1}/deployments/{deployment}"

        async def verifying() -> bool:
            return bool((await direct.send("GET", path)).expect(200)["steps"][3]["detail"])

        await eventually(verifying)
        (await direct.send("POST", f"{path}/retry")).problem(409, "wrong-state")
        key = {"Idempotency-Key": deployment}
        first = await direct.send("POST", f"{path}/cancel", {"reason": "Not now"}, headers=key)
        assert first.expect(200)["status"] == "compensating"
        again = await direct.send("POST", f"{path}/cancel", {"reason": "Not now"}, headers=key)
        assert again.expect(200) == first.body
        failed = await ended(direct, deployment)
        assert (failed["failed_step"], failed["reason"]) == ("verify", "it was cancelled: Not now")
        statuses = [step["status"] for step in failed["steps"]]
        assert statuses == ["succeeded", "compensated", "compensated", "failed"]
        await settled(stack, tenant)
        assert (await at_tenant.send("GET", f"{V1}/tenants/{tenant}")).expect(200)["status"] == "failed"
    finally:
        await stack.start_service("gateway")
    retried = (await platform.send("POST", f"{path}/retry")).expect(200)
    assert retried["status"] in ("queued", "running")
    found = await ended(platform, deployment)
    assert found["status"] == "succeeded"
    # What was still done was not done again.
    assert found["steps"][0] == failed["steps"][0]
    assert all(step["started_at"] > failed["updated_at"] for step in found["steps"][1:])
    (await platform.send("POST", f"{path}/retry")).problem(409, "wrong-state")
    await settled(stack, tenant)
    assert (await platform.send("GET", f"{V1}/tenants/{tenant}")).expect(200)["status"] == "active"
    transitions = (await platform.send("GET", f"{V1}/tenants/{tenant}/transitions")).expect(200)["items"]
    assert [item["to_status"] for item in transitions] == [
        "registered",
        "deploying",
        "failed",
        "deploying",
        "active",
    ]


async def test_one_that_a_later_one_followed_is_not_tried_again(stack: Stack, public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    first = await ordered(platform, isp.id, operation="suspend", grace_seconds=60)
    assert (await platform.send("GET", f"{V1}/deployments/{first}")).expect(200)["status"] == "waiting"
    (await platform.send("POST", f"{V1}/deployments/{first}/cancel")).expect(200)
    await settled(stack, isp.id)
    await done(platform, stack, isp.id, operation="suspend")
    answer = await platform.send("POST", f"{V1}/deployments/{first}/retry")
    answer.problem(409, "wrong-state")


async def test_one_that_is_tried_again_gives_way_to_what_is_ordered_meanwhile(
    stack: Stack, public: Api, platform: Api
) -> None:
    isp, first_in_line = await deploy(public, platform), await registered(platform)
    await settled(stack, isp.id)
    again = await ordered(platform, isp.id, operation="suspend", grace_seconds=60)
    assert (await platform.send("GET", f"{V1}/deployments/{again}")).expect(200)["status"] == "waiting"
    (await platform.send("POST", f"{V1}/deployments/{again}/cancel")).expect(200)
    await settled(stack, isp.id)
    async with provisioning(stack, DEPLOYMENT_AT_ONCE="1"):
        pass
    try:
        async with unwritable(stack, "tenant", "app_user"):
            at_work = await ordered(platform, first_in_line)
            await at(platform, at_work, "create_administrator")
            (await platform.send("POST", f"{V1}/deployments/{again}/retry")).expect(200)
            # The tenant service knows nothing of it before it is its turn.
            later = await ordered(platform, isp.id, operation="maintain")
            assert (await platform.send("GET", f"{V1}/deployments/{later}")).expect(200)["status"] == "queued"
        found = await ended(platform, again)
        assert (found["status"], found["reason"]) == (
            "failed",
            f"the deployment {later} was ordered after it, or at work then",
        )
        assert (await ended(platform, later))["status"] == "succeeded"
        await settled(stack, isp.id)
        assert (await platform.send("GET", f"{V1}/tenants/{isp.id}")).expect(200)["status"] == "maintenance"
        assert (await ended(platform, at_work))["status"] == "succeeded"
    finally:
        await restored(stack)


_PLANT = """
insert into deployment (tenant_id, deployment_id, target, operation, status, request, steps, version, next_check_at)
select $1, gen_random_uuid(), $2, 'deploy', 'running', '{}', '[]', 1, $3 from generate_series(1, $4)
"""


async def test_a_slow_target_leaves_hands_for_the_others(stack: Stack) -> None:
    tenant, now = uuid4(), datetime.now(UTC)
    async with away(stack, "provisioning"), past_security(stack, "provisioning") as database:
        await database.execute(_PLANT, tenant, "container", now - timedelta(hours=1), 25)
        await database.execute(_PLANT, tenant, "pooled", now - timedelta(seconds=1), 1)
        try:
            async with service_in_process(stack, "provisioning") as parts:
                taken = await Deployer(parts, DeploymentSettings())._leased(dict.fromkeys(TARGETS, 20))
        finally:
            await database.execute("delete from deployment where tenant_id = $1", tenant)
    count = Counter(row["target"] for row in taken if row["tenant_id"] == tenant)
    assert count == {"container": 20, "pooled": 1}


async def test_who_lost_a_deployment_without_knowing_reroutes_nobody(stack: Stack, public: Api, platform: Api) -> None:
    isp = await deploy(public, platform, "process")
    await settled(stack, isp.id)
    row = {**await row_of(stack, isp.id, isp.deployment["id"]), "cause": None}
    hold, hold_nothing = ("on_hold = true where tenant_id = $1", "on_hold = false where tenant_id = $1")
    async with service_in_process(stack, "provisioning") as parts:
        assert await rerouted(parts, {**row, "lease": uuid4()}, hold) is None
        found = await rerouted(parts, row, hold_nothing)
    assert found is not None and found["version"] == 2
    await leaves(stack, platform, isp.id)


async def test_what_follows_from_a_cancellation_is_of_who_cancelled(stack: Stack, public: Api, platform: Api) -> None:
    isp, somebody = await deploy(public, platform), str(uuid4())
    await settled(stack, isp.id)
    token = TokenIssuer(stack.jwt_secret_key).issue(somebody, PLATFORM_TENANT, ["deployments:write"])
    deployment = await ordered(platform, isp.id, operation="suspend", grace_seconds=60)
    assert (await platform.send("GET", f"{V1}/deployments/{deployment}")).expect(200)["status"] == "waiting"
    (await platform.as_(token).send("POST", f"{V1}/deployments/{deployment}/cancel")).expect(200)
    await settled(stack, isp.id)
    async with past_security(stack, "provisioning") as database:
        rows = await database.fetch(
            "select headers->>'ce_type' as type, headers->>'ce_actor' as actor from journal"
            " where topic = 'provisioning.deployment.v1' and key = $1",
            deployment,
        )
    assert [row["actor"] for row in rows if row["type"].endswith("DeploymentFailed")] == [somebody]


async def follow(api: Api, deployment: str, last_id: str | None = None, entries: int = 10**6) -> tuple[int, Reader]:
    """Follow a deployment until so many lines have come, or it is over; return the status and what was received."""
    reader, path = Reader(last_id=last_id), f"{V1}/deployments/{deployment}/events"
    headers = {"Authorization": f"Bearer {api.token}", **({"Last-Event-ID": last_id} if last_id else {})}
    async with asyncio.timeout(60), api.http.get(api.url + path, headers=headers) as answer:
        if answer.status == 200:
            api.note("GET", path)
            await reader.read(answer, lambda: len(reader.events) >= entries)
        return answer.status, reader


async def test_a_deployment_is_followed_as_it_goes_and_whoever_comes_back_goes_on_where_they_were(
    stack: Stack, platform: Api
) -> None:
    tenant = await registered(platform)
    async with provisioning(stack):
        deployment = await ordered(platform, tenant)
    status, first = await follow(platform, deployment, entries=3)
    assert status == 200
    status, rest = await follow(platform, deployment, first.last_id)
    assert status == 200
    events = [*first.events, *rest.events]
    assert [event["position"] for event in events] == list(range(1, len(events) + 1))
    assert first.positions + rest.positions == [event["position"] for event in events]
    assert (events[-1]["step"], events[-1]["status"]) == (None, "succeeded")
    ends = [event["step"] for event in events if event["step"] and event["status"] == "succeeded"]
    assert ends == ["allocate", "prepare_workspaces", "create_administrator", "verify"]
    assert (await follow(platform, deployment, rest.last_id))[0] == 204
    assert await log_of(platform, deployment) == events
    of_a_step = await log_of(platform, deployment, step="prepare_workspaces")
    assert [entry["status"] for entry in of_a_step] == ["running", "running", "succeeded"]
    assert of_a_step[0]["message"] == "waits for billing and customer"
    assert "answered" in of_a_step[1]["message"]


async def test_a_stranger_follows_nothing(platform: Api, tenant: Tenant, other: Tenant) -> None:
    deployment = tenant.deployment["id"]
    status, own = await follow(tenant.api, deployment)
    assert (status, own.events[-1]["status"]) == (200, "succeeded")
    for name in ("events", "log"):
        (await other.api.send("GET", f"{V1}/deployments/{deployment}/{name}")).problem(404)
    headers = {"Last-Event-ID": "x"}
    (await tenant.api.send("GET", f"{V1}/deployments/{deployment}/events", headers=headers)).problem(422)


@pytest.mark.parametrize("operation", ["deploy", "suspend", "maintain", "resume"])
async def test_a_plan_says_what_would_be_done_and_how_long_it_takes(
    stack: Stack, public: Api, platform: Api, tenant: Tenant, operation: str
) -> None:
    params = {"operation": operation}
    if operation != "deploy":
        isp = await deploy(public, platform)
        await settled(stack, isp.id)
        if operation == "resume":
            await done(platform, stack, isp.id, operation="maintain")
        real = await done(platform, stack, isp.id, operation=operation)
    else:
        real = tenant.deployment
    found = (await platform.send("GET", f"{V1}/deployments/plan", params=params)).expect(200)
    assert [step["name"] for step in found["steps"]] == [step["name"] for step in real["steps"]]
    assert found["known_from"] >= 1
    assert found["expected_seconds"] == pytest.approx(sum(step["expected_seconds"] for step in found["steps"]))
    assert 0 < found["expected_seconds"] < 60
    leaving = {"operation": "deprovision"}
    kept = (await platform.send("GET", f"{V1}/deployments/plan", params=leaving)).expect(200)["steps"]
    (grace,) = [step for step in kept if step["name"] == "grace"]  # as an order that says nothing of it waits
    assert grace["expected_seconds"] == GRACE_SECONDS["deprovision"]
    if operation != "deploy":
        waits = {**params, "grace_seconds": "3600"}
        longer = (await platform.send("GET", f"{V1}/deployments/plan", params=waits)).expect(200)
        assert (longer["steps"][0]["name"], longer["steps"][0]["expected_seconds"]) == ("grace", 3600)
        assert longer["expected_seconds"] >= 3600


async def test_an_unknown_plan_is_refused(platform: Api) -> None:
    for params in ({"operation": "explode"}, {"target": "nowhere"}, {"grace_seconds": "-1"}):
        (await platform.send("GET", f"{V1}/deployments/plan", params=params)).problem(422)
