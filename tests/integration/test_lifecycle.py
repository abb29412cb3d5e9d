"""A tenant's life after its deployment: who is refused when, with which reason, and what is told of it."""

import asyncio
import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from deploy.stack.stack import Stack
from services.tenant.domain.attempts import FREE
from tests.api import Api, eventually
from tests.conftest import PASSWORD, Tenant, registration, sign_in
from tests.deployments import done, ended, ordered, settled
from tests.integration.test_revocations import READ

V1 = "/api/v1"


async def everywhere(stack: Stack, api: Api) -> dict[str, tuple[int, str]]:
    """Return how each place answers a token: the gateway, and every service by itself."""
    found = {}
    for place, path in READ.items():
        answer = await replace(api, url=stack.url(place)).send("GET", V1 + path)
        found[place] = (answer.status, answer.body["type"] if answer.status >= 400 else "")
    return found


async def answered(stack: Stack, api: Api, status: int, kind: str = "") -> None:
    async def everywhere_so() -> bool:
        return set((await everywhere(stack, api)).values()) == {(status, kind)}

    await eventually(everywhere_so)


@pytest.mark.parametrize(
    ("operation", "status", "kind", "told"),
    [
        ("suspend", "suspended", "tenant-suspended", "TenantSuspended"),
        ("maintain", "maintenance", "tenant-in-maintenance", "TenantMaintenanceStarted"),
    ],
)
async def test_a_closed_tenant_is_refused_everywhere_with_the_reason_until_it_is_resumed(
    stack: Stack, public: Api, platform: Api, isp: Tenant, operation: str, status: str, kind: str, told: str
) -> None:
    path = f"{V1}/tenants/{isp.id}"
    await answered(stack, isp.api, 200)
    before = (await platform.send("GET", f"{path}/transitions")).expect(200)["items"]
    closing = await done(platform, stack, isp.id, operation=operation, reason="Overdue")
    assert [(step["name"], step["status"]) for step in closing["steps"]] == [
        ("close_access", "succeeded"),
        ("verify_closed", "succeeded"),
    ]
    # The gateway refuses already: that was verified. The services hear of it in the same way.
    (await isp.api.send("GET", f"{V1}/customers")).problem(403, kind)
    await answered(stack, isp.api, 403, f"/problems/{kind}")
    form = {"username": isp.administrator, "password": PASSWORD, "tenant": isp.slug}
    (await public.send("POST", f"{V1}/auth/token", form=form)).problem(403, kind)
    wrong = {**form, "password": "not the right one"}
    (await public.send("POST", f"{V1}/auth/token", form=wrong)).problem(401, "invalid-credentials")
    assert (await platform.send("GET", path)).expect(200)["status"] == status
    listed = (await platform.send("GET", f"{V1}/tenants", params={"status": status})).expect(200)["items"]
    assert isp.id in [item["id"] for item in listed]
    for again in (operation, "deploy"):
        answer = await platform.send("POST", f"{path}/deployments", {"operation": again})
        answer.problem(409, "wrong-state")

    opening = await done(platform, stack, isp.id, operation="resume")
    assert [step["name"] for step in opening["steps"]] == ["verify", "open_access", "verify_open"]
    await answered(stack, isp.api, 200)
    assert await sign_in(public, isp.administrator, PASSWORD, isp.slug)
    assert (await platform.send("GET", path)).expect(200)["status"] == "active"

    params = {"limit": "1"}
    transitions: list[dict[str, Any]] = []
    while True:
        page = (await platform.send("GET", f"{path}/transitions", params=params)).expect(200)
        transitions += page["items"]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    new = transitions[len(before) :]
    assert [(item["from_status"], item["to_status"], item["reason"]) for item in new] == [
        ("active", status, "Overdue"),
        (status, "active", None),
    ]
    assert [item["deployment_id"] for item in new] == [closing["id"], opening["id"]]
    assert all(item["requested_by"] for item in new)
    assert [(item["from_status"], item["to_status"]) for item in transitions[:3]] == [
        (None, "registered"),
        ("registered", "deploying"),
        ("deploying", "active"),
    ]
    versions = [item["version"] for item in transitions]
    assert versions == sorted(set(versions))
    assert await published(stack, isp.id) >= {told, "TenantResumed"}


async def published(stack: Stack, tenant: str) -> set[str]:
    connection = await asyncpg.connect(stack.database_url("tenant", "relay"))
    try:
        rows = await connection.fetch(
            "select headers from journal where topic = 'tenant.tenant.v1' and tenant_id = $1", UUID(tenant)
        )
        return {json.loads(row["headers"])["ce_type"].rsplit(".", 1)[-1] for row in rows}
    finally:
        await connection.close()


async def test_a_tenant_stays_closed_over_restarts_and_an_open_stream_ends(
    stack: Stack, platform: Api, isp: Tenant, http: aiohttp.ClientSession
) -> None:
    await answered(stack, isp.api, 200)
    headers = {"Authorization": f"Bearer {isp.api.token}"}
    async with http.get(f"{stack.gateway_url}{V1}/events", headers=headers) as feed:
        assert feed.status == 200
        await done(platform, stack, isp.id, operation="suspend")
        async with asyncio.timeout(30):
            while await feed.content.read(65_536):
                pass  # it goes on until it is ended
    for name in ("gateway", "customer"):
        await stack.children[name].stop()
        await stack.start_service(name)
    # From the first request on: what is closed was known before it was taken.
    for name in ("gateway", "customer"):
        api = replace(isp.api, url=stack.url(name))
        (await api.send("GET", f"{V1}/customers")).problem(403, "tenant-suspended")
    await done(platform, stack, isp.id, operation="resume")
    await answered(stack, isp.api, 200)


async def test_grace_is_waited_for(stack: Stack, platform: Api, isp: Tenant) -> None:
    deployment = await ordered(platform, isp.id, operation="maintain", grace_seconds=2)
    found = (await platform.send("GET", f"{V1}/deployments/{deployment}")).expect(200)
    grace = found["steps"][0]
    assert (grace["name"], grace["status"]) == ("grace", "running")
    assert grace["until"] > grace["started_at"]
    (await isp.api.send("GET", f"{V1}/customers")).expect(200)
    answer = await platform.send("POST", f"{V1}/tenants/{isp.id}/deployments", {"operation": "suspend"})
    answer.problem(409, "wrong-state")  # one at a time
    found = await ended(platform, deployment)
    assert found["status"] == "succeeded"
    assert found["steps"][0]["finished_at"] >= grace["until"]
    await settled(stack, isp.id)
    await done(platform, stack, isp.id, operation="resume")


async def test_a_suspension_that_can_not_be_verified_is_undone(stack: Stack, platform: Api, isp: Tenant) -> None:
    direct = replace(platform, url=stack.url("provisioning"))
    await answered(stack, isp.api, 200)
    at_tenant = replace(platform, url=stack.url("tenant"))
    await stack.children["gateway"].stop()
    try:
        deployment = await ordered(at_tenant, isp.id, operation="suspend")

        async def verifying() -> bool:
            answer = await direct.send("GET", f"{V1}/deployments/{deployment}")
            return bool(answer.expect(200)["steps"][1]["detail"])

        await eventually(verifying)
        connection = await asyncpg.connect(stack.database_url("provisioning", "consumer"))
        try:
            await connection.execute(f"set app.tenant_ids = '{isp.id}'")
            # Its time is over: as if it had begun an hour ago.
            await connection.execute(
                "update deployment set next_check_at = now(),"
                " steps = jsonb_set(steps, '{1,since}', to_jsonb(now() - interval '1 hour')) where deployment_id = $1",
                UUID(deployment),
            )
        finally:
            await connection.close()
        found = await ended(direct, deployment)
    finally:
        await stack.start_service("gateway")
    assert (found["status"], found["failed_step"]) == ("failed", "verify_closed")
    assert "does not answer" in found["reason"]
    assert [step["status"] for step in found["steps"]] == ["compensated", "failed"]
    assert (await platform.send("GET", f"{V1}/tenants/{isp.id}")).expect(200)["status"] == "active"
    await answered(stack, isp.api, 200)
    await settled(stack, isp.id)


async def test_what_a_tenants_status_forbids_is_refused(platform: Api, tenant: Tenant) -> None:
    registered = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)
    for operation in ("suspend", "maintain", "resume"):
        path = f"{V1}/tenants/{registered['id']}/deployments"
        (await platform.send("POST", path, {"operation": operation})).problem(409, "wrong-state")
    path = f"{V1}/tenants/{tenant.id}/deployments"
    (await platform.send("POST", path, {"operation": "resume"})).problem(409, "wrong-state")
    for body in ({"operation": "explode"}, {"grace_seconds": -1}, {"grace_seconds": True}, {"reason": ""}, {"x": 1}):
        (await platform.send("POST", path, body)).problem(422)
    (await tenant.api.send("POST", path, {"operation": "suspend"})).problem(403, "missing-scope")


async def test_a_session_of_a_closed_tenant_is_not_refreshed_and_goes_on_when_it_is_open_again(
    stack: Stack, public: Api, platform: Api, isp: Tenant
) -> None:
    form = {"username": isp.administrator, "password": PASSWORD, "tenant": isp.slug}
    session = (await public.send("POST", f"{V1}/auth/token", form=form)).expect(200)
    refresh = {"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}
    await done(platform, stack, isp.id, operation="suspend")
    for _ in range(2):
        (await public.send("POST", f"{V1}/auth/token", form=refresh)).problem(403, "tenant-suspended")
    await done(platform, stack, isp.id, operation="resume")
    (await public.send("POST", f"{V1}/auth/token", form=refresh)).expect(200)


async def test_the_right_password_at_a_closed_tenant_is_told_why_however_often_it_comes(
    stack: Stack, public: Api, platform: Api, isp: Tenant
) -> None:
    form = {"username": isp.administrator, "password": PASSWORD, "tenant": isp.slug}
    await done(platform, stack, isp.id, operation="suspend")
    for _ in range(FREE + 2):
        (await public.send("POST", f"{V1}/auth/token", form=form)).problem(403, "tenant-suspended")
    await done(platform, stack, isp.id, operation="resume")
    (await public.send("POST", f"{V1}/auth/token", form=form)).expect(200)
