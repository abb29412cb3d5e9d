"""An ISP signs up by itself, and the platform approves or rejects."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.conftest import PASSWORD, Tenant, registration, sign_in
from tests.deployments import ended, ordered, settled

V1 = "/api/v1"
SIGN_UP = f"{V1}/auth/sign-ups"


async def found(platform: Api, email: str) -> list[dict[str, Any]]:
    """Return the sign-ups of an address, whatever became of them."""
    items, cursor = [], None
    while True:
        params = {"limit": "200", **({"cursor": cursor} if cursor else {})}
        page = (await platform.send("GET", f"{V1}/sign-ups", params=params)).expect(200)
        items += [item for item in page["items"] if item["contact_email"] == email]
        cursor = page["next_cursor"]
        if cursor is None:
            return items


async def signed_up(public: Api, platform: Api, **changes: Any) -> dict[str, Any]:
    data = registration(**changes)
    (await public.send("POST", SIGN_UP, data)).expect(202)
    (row,) = await found(platform, data["contact_email"])
    return row


async def test_a_sign_up_that_is_approved_becomes_a_tenant_with_an_administrator(public: Api, platform: Api) -> None:
    row = await signed_up(public, platform)
    path = f"{V1}/sign-ups/{row['id']}"
    assert row["status"] == "pending"
    assert (await platform.send("GET", path)).expect(200) == row
    key = {"Idempotency-Key": uuid4().hex}
    approved = (await platform.send("POST", f"{path}/approve", {}, headers=key)).expect(201)
    assert (await platform.send("POST", f"{path}/approve", {}, headers=key)).expect(201) == approved
    tenant, invitation = approved["tenant"], approved["invitation"]
    assert (tenant["slug"], tenant["status"], invitation["email"]) == (row["slug"], "registered", row["contact_email"])
    (await platform.send("POST", f"{path}/approve", {})).problem(409, "wrong-state")
    (await platform.send("POST", f"{path}/reject", {})).problem(409, "wrong-state")
    after = (await platform.send("GET", path)).expect(200)
    assert (after["status"], after["created_tenant_id"]) == ("approved", tenant["id"])
    order = (await platform.send("POST", f"{V1}/tenants/{tenant['id']}/deployments")).expect(202)
    assert (await ended(platform, order["deployment_id"]))["status"] == "succeeded"
    body = {"token": invitation["token"], "password": PASSWORD}
    (await public.send("POST", f"{V1}/auth/invitations/accept", body)).expect(204)
    administrator = public.as_(await sign_in(public, invitation["email"], PASSWORD, tenant["slug"]))
    (user,) = (await administrator.send("GET", f"{V1}/users")).expect(200)["items"]
    assert (user["id"], user["roles"], user["status"]) == (invitation["user_id"], ["tenant_admin"], "active")
    (await administrator.send("GET", f"{V1}/customers")).expect(200)


async def test_a_deployment_that_fails_leaves_the_administrator_who_was_invited_before(
    stack: Stack, public: Api, platform: Api
) -> None:
    row = await signed_up(public, platform)
    approved = (await platform.send("POST", f"{V1}/sign-ups/{row['id']}/approve", {})).expect(201)
    tenant, invitation = approved["tenant"], approved["invitation"]
    direct, at_tenant = (replace(platform, url=stack.url(name)) for name in ("provisioning", "tenant"))
    await stack.children["gateway"].stop()
    try:
        deployment = await ordered(at_tenant, tenant["id"])
        path = f"{V1}/deployments/{deployment}"

        async def verifying() -> Any:
            return (await direct.send("GET", path)).expect(200)["steps"][3]["detail"]

        await eventually(verifying)
        (await direct.send("POST", f"{path}/cancel")).expect(200)
        failed = await ended(direct, deployment)
    finally:
        await stack.start_service("gateway")
    statuses = [step["status"] for step in failed["steps"]]
    assert statuses == ["succeeded", "compensated", "compensated", "failed"]
    await settled(stack, tenant["id"])
    (await platform.send("POST", f"{path}/retry")).expect(200)
    assert (await ended(platform, deployment))["status"] == "succeeded"
    body = {"token": invitation["token"], "password": PASSWORD}
    (await public.send("POST", f"{V1}/auth/invitations/accept", body)).expect(204)
    administrator = public.as_(await sign_in(public, invitation["email"], PASSWORD, tenant["slug"]))
    (user,) = (await administrator.send("GET", f"{V1}/users")).expect(200)["items"]
    assert user["id"] == invitation["user_id"]


async def test_it_may_get_another_slug_and_plan(public: Api, platform: Api, tenant: Tenant) -> None:
    row = await signed_up(public, platform, slug=tenant.slug)  # nothing told that it is taken
    path = f"{V1}/sign-ups/{row['id']}/approve"
    (await platform.send("POST", path, {})).problem(409, "slug-taken")
    assert (await platform.send("GET", f"{V1}/sign-ups/{row['id']}")).expect(200)["status"] == "pending"
    slug = registration()["slug"]
    approved = (await platform.send("POST", path, {"slug": slug, "plan": "premium"})).expect(201)["tenant"]
    assert (approved["slug"], approved["plan"], approved["name"]) == (slug, "premium", row["name"])


async def test_one_that_is_rejected_becomes_nothing_and_may_come_again(public: Api, platform: Api) -> None:
    row = await signed_up(public, platform)
    path = f"{V1}/sign-ups/{row['id']}"
    rejected = (await platform.send("POST", f"{path}/reject", {"reason": "Not an ISP"})).expect(200)
    assert (rejected["status"], rejected["reason"], rejected["created_tenant_id"]) == ("rejected", "Not an ISP", None)
    (await platform.send("POST", f"{path}/approve", {})).problem(409, "wrong-state")
    params = {"slug": row["slug"]}
    assert (await platform.send("GET", f"{V1}/tenants", params=params)).expect(200)["items"] == []
    again = registration(contact_email=row["contact_email"])
    (await public.send("POST", SIGN_UP, again)).expect(202)
    assert [item["status"] for item in await found(platform, row["contact_email"])] == ["rejected", "pending"]


async def test_one_waits_of_each_address_however_often_it_is_sent(public: Api, platform: Api) -> None:
    data = registration()
    sent = [public.send("POST", SIGN_UP, {**data, "slug": registration()["slug"]}) for _ in range(6)]
    answers = await asyncio.gather(*sent)
    assert {answer.status for answer in answers} == {202}
    assert {bytes(answer.body) for answer in answers} == {b""}
    other_case = {**data, "contact_email": data["contact_email"].upper()}
    (await public.send("POST", SIGN_UP, other_case)).expect(202)
    assert len(await found(platform, data["contact_email"])) == 1
    assert await found(platform, other_case["contact_email"]) == []


async def test_one_is_decided_once_by_many_at_once(public: Api, platform: Api) -> None:
    row = await signed_up(public, platform)
    path = f"{V1}/sign-ups/{row['id']}"
    orders = [platform.send("POST", f"{path}/{what}", {}) for what in ("approve", "reject") * 4]
    statuses = sorted(answer.status for answer in await asyncio.gather(*orders))
    assert statuses[0] in (200, 201)
    assert statuses[1:] == [409] * 7


@pytest.mark.parametrize(
    "changes", [{"slug": "UPPER"}, {"currency": "XXX"}, {"contact_email": "x"}, {"status": "active"}]
)
async def test_a_wrong_sign_up_is_refused(public: Api, platform: Api, changes: dict[str, Any]) -> None:
    data = registration(**changes)
    (await public.send("POST", SIGN_UP, data)).problem(422)
    assert await found(platform, data["contact_email"]) == []


async def test_a_tenant_sees_no_sign_ups(public: Api, platform: Api, tenant: Tenant) -> None:
    row = await signed_up(public, platform)
    (await tenant.api.send("GET", f"{V1}/sign-ups")).problem(403)
    (await tenant.api.send("GET", f"{V1}/sign-ups/{row['id']}")).problem(403)
    (await tenant.api.send("POST", f"{V1}/sign-ups/{row['id']}/approve", {})).problem(403)
    (await public.send("GET", f"{V1}/sign-ups")).problem(401)
