"""Users of a tenant: invited, changed, disabled, deleted; and the roles that they have."""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from chassis.security.scopes import PLATFORM_ROLES, TENANT_ROLES
from deploy.stack.stack import Stack
from tests.api import Answer, Api
from tests.conftest import PASSWORD, Tenant, deploy
from tests.integration.test_revocations import ended

V1 = "/api/v1"
ANY = {"If-Match": "*"}


@dataclass
class User:
    """One who accepted an invitation and signed in."""

    id: str
    email: str
    api: Api
    refresh_token: str


def address() -> str:
    return f"{secrets.token_hex(6)}@users.example"


async def invited(api: Api, *roles: str, email: str | None = None) -> Answer:
    return await api.send("POST", f"{V1}/invitations", {"email": email or address(), "roles": list(roles)})


async def signed_in(public: Api, email: str, slug: str | None, **form: str) -> Answer:
    data = {"username": email, "password": PASSWORD, **({"tenant": slug} if slug else {}), **form}
    return await public.send("POST", f"{V1}/auth/token", form=data)


async def joined(public: Api, by: Api, slug: str | None, *roles: str) -> User:
    invitation = (await invited(by, *roles)).expect(201)
    body = {"token": invitation["token"], "password": PASSWORD}
    (await public.send("POST", f"{V1}/auth/invitations/accept", body)).expect(204)
    token = (await signed_in(public, invitation["email"], slug)).expect(200)
    api = public.as_(token["access_token"])
    return User(invitation["user_id"], invitation["email"], api, token["refresh_token"])


async def change(api: Api, user: str, headers: dict[str, str] = ANY, **changes: Any) -> Answer:
    return await api.send("PATCH", f"{V1}/users/{user}", changes, headers=headers)


async def refresh(public: Api, user: User) -> Answer:
    form = {"grant_type": "refresh_token", "refresh_token": user.refresh_token}
    answer = await public.send("POST", f"{V1}/auth/token", form=form)
    if answer.status == 200:
        user.api, user.refresh_token = public.as_(answer.body["access_token"]), answer.body["refresh_token"]
    return answer


async def scopes_of(api: Api) -> set[str]:
    """Return what a token allows of reading customers and plans, and of writing customers, by trying."""
    allowed = set()
    for scope, method, path in (
        ("customers:read", "GET", "/customers"),
        ("customers:write", "POST", "/customers"),
        ("billing:read", "GET", "/plans"),
        ("users:read", "GET", "/users"),
    ):
        if (await api.send(method, V1 + path, {} if method == "POST" else None)).status != 403:
            allowed.add(scope)
    return allowed


TRIED = {"customers:read", "customers:write", "billing:read", "users:read"}


@pytest.mark.parametrize("role", TENANT_ROLES)
async def test_a_user_is_invited_and_may_do_what_the_role_allows(public: Api, isp: Tenant, role: str) -> None:
    user = await joined(public, isp.api, isp.slug, role)
    answer = await isp.api.send("GET", f"{V1}/users/{user.id}")
    shown = answer.expect(200)
    assert (shown["email"], shown["roles"], shown["status"]) == (user.email, [role], "active")
    assert answer.headers["ETag"] == f'"{shown["version"]}"'
    assert await scopes_of(user.api) == TENANT_ROLES[role] & TRIED


@pytest.mark.parametrize("role", PLATFORM_ROLES)
async def test_the_platform_has_users_of_its_own(public: Api, platform: Api, role: str) -> None:
    user = await joined(public, platform, None, role)
    assert (await user.api.send("GET", f"{V1}/tenants")).status == 200
    refused = (await user.api.send("POST", f"{V1}/tenants", {})).status == 403
    assert refused is ("tenants:write" not in PLATFORM_ROLES[role])
    (await user.api.send("GET", f"{V1}/customers")).problem(403)
    (await platform.send("DELETE", f"{V1}/users/{user.id}")).expect(204)


async def test_one_who_has_not_accepted_is_invited_again_and_the_first_invitation_ends(
    public: Api, isp: Tenant
) -> None:
    email = address()
    first = (await invited(isp.api, "sales", email=email)).expect(201)
    second = (await invited(isp.api, "manager", email=email.upper())).expect(201)
    assert second["user_id"] == first["user_id"]
    shown = (await isp.api.send("GET", f"{V1}/users/{first['user_id']}")).expect(200)
    assert (shown["status"], shown["roles"]) == ("invited", ["manager"])
    accept, body = f"{V1}/auth/invitations/accept", {"token": first["token"], "password": PASSWORD}
    (await public.send("POST", accept, body)).problem(400, "invalid-invitation")
    (await public.send("POST", accept, {**body, "token": second["token"]})).expect(204)
    (await invited(isp.api, "manager", email=email)).problem(409, "already-accepted")


async def test_an_invitation_that_is_repeated_with_its_key_is_the_same(isp: Tenant) -> None:
    body, key = {"email": address(), "roles": ["sales"]}, {"Idempotency-Key": uuid4().hex}
    answers = [await isp.api.send("POST", f"{V1}/invitations", body, headers=key) for _ in range(2)]
    assert answers[0].expect(201) == answers[1].expect(201)


async def test_one_address_is_invited_once_by_many_at_once(isp: Tenant) -> None:
    email = address()
    answers = await asyncio.gather(*(invited(isp.api, "sales", email=email) for _ in range(8)))
    assert len({answer.expect(201)["user_id"] for answer in answers}) == 1


async def test_other_roles_hold_at_once(stack: Stack, public: Api, isp: Tenant) -> None:
    user = await joined(public, isp.api, isp.slug, "manager")
    changed = (await change(isp.api, user.id, roles=["technician", "sales"])).expect(200)
    assert changed["roles"] == ["sales", "technician"]
    await ended(stack, user.api)
    (await refresh(public, user)).expect(200)
    assert await scopes_of(user.api) == {"customers:read", "customers:write", "billing:read"}
    same = (await change(isp.api, user.id, roles=["sales", "technician"])).expect(200)
    assert same["version"] == changed["version"]
    assert (await user.api.send("GET", f"{V1}/customers")).status == 200


async def test_one_who_is_disabled_is_out_at_once_and_may_come_back(stack: Stack, public: Api, isp: Tenant) -> None:
    user = await joined(public, isp.api, isp.slug, "manager")
    assert (await change(isp.api, user.id, disabled=True)).expect(200)["status"] == "disabled"
    await ended(stack, user.api)
    (await refresh(public, user)).problem(401, "invalid-refresh-token")
    (await signed_in(public, user.email, isp.slug)).problem(401, "invalid-credentials")
    assert (await change(isp.api, user.id, disabled=False)).expect(200)["status"] == "active"
    (await signed_in(public, user.email, isp.slug)).expect(200)


async def test_one_who_is_invited_and_disabled_can_not_accept(public: Api, isp: Tenant) -> None:
    invitation = (await invited(isp.api, "sales")).expect(201)
    (await change(isp.api, invitation["user_id"], disabled=True)).expect(200)
    body = {"token": invitation["token"], "password": PASSWORD}
    (await public.send("POST", f"{V1}/auth/invitations/accept", body)).problem(400, "invalid-invitation")


async def test_one_who_is_deleted_is_gone(stack: Stack, public: Api, isp: Tenant) -> None:
    user = await joined(public, isp.api, isp.slug, "manager")
    (await isp.api.send("DELETE", f"{V1}/users/{user.id}")).expect(204)
    for _ in range(2):
        (await isp.api.send("DELETE", f"{V1}/users/{user.id}")).problem(404)
    (await isp.api.send("GET", f"{V1}/users/{user.id}")).problem(404)
    await ended(stack, user.api)
    (await refresh(public, user)).problem(401, "invalid-refresh-token")
    (await signed_in(public, user.email, isp.slug)).problem(401, "invalid-credentials")
    again = (await invited(isp.api, "manager", email=user.email)).expect(201)
    assert again["user_id"] != user.id


async def test_a_change_names_the_version_that_was_read(public: Api, isp: Tenant) -> None:
    user = await joined(public, isp.api, isp.slug, "sales")
    version = (await isp.api.send("GET", f"{V1}/users/{user.id}")).expect(200)["version"]
    (await change(isp.api, user.id, {}, roles=["support"])).problem(428)
    stale = {"If-Match": f'"{version - 1}"'}
    (await change(isp.api, user.id, stale, roles=["support"])).problem(412)
    (await change(isp.api, user.id, {"If-Match": f'"{version}"'}, roles=["support"])).expect(200)


async def test_nobody_gives_or_touches_more_than_is_his(public: Api, isp: Tenant) -> None:
    """One with a role that may write users, and little else."""
    data = {"name": "people", "scopes": ["users:read", "users:write", "roles:read", "roles:write", "customers:read"]}
    (await isp.api.send("POST", f"{V1}/roles", data)).expect(201)
    hr = await joined(public, isp.api, isp.slug, "people")
    manager = await joined(public, isp.api, isp.slug, "manager")
    for roles in (["tenant_admin"], ["manager"], ["people", "sales"], ["technician"]):
        (await invited(hr.api, *roles)).problem(403, "more-than-own-scopes")
        (await change(hr.api, hr.id, roles=roles)).problem(403, "more-than-own-scopes")
    for path, method in ((f"/users/{manager.id}", "DELETE"), (f"/users/{manager.id}/password-resets", "POST")):
        (await hr.api.send(method, V1 + path)).problem(403, "more-than-own-scopes")
    (await change(hr.api, manager.id, disabled=True)).problem(403, "more-than-own-scopes")
    (await change(hr.api, manager.id, roles=["customer"])).problem(403, "more-than-own-scopes")
    # Nor by way of a role: neither a new one, nor more for the one he has.
    wider = {"name": "wider", "scopes": ["billing:write"]}
    (await hr.api.send("POST", f"{V1}/roles", wider)).problem(403, "more-than-own-scopes")
    own = next(r for r in (await hr.api.send("GET", f"{V1}/roles")).expect(200)["items"] if r["name"] == "people")
    more = {"scopes": [*data["scopes"], "billing:write"]}
    (await hr.api.send("PATCH", f"{V1}/roles/{own['id']}", more, headers=ANY)).problem(403, "more-than-own-scopes")
    await joined(public, hr.api, isp.slug, "customer")  # what is his to give he gives
    (await invited(hr.api, "people")).expect(201)
    assert (await scopes_of(manager.api)) >= {"customers:write"}


async def test_the_last_administrator_stays(public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    (admin,) = (await isp.api.send("GET", f"{V1}/users")).expect(200)["items"]
    (await invited(isp.api, "tenant_admin")).expect(201)  # one who has not accepted is none yet
    disabled = await joined(public, isp.api, isp.slug, "tenant_admin")
    (await change(isp.api, disabled.id, disabled=True)).expect(200)
    for changes in ({"disabled": True}, {"roles": ["manager"]}):
        (await change(isp.api, admin["id"], **changes)).problem(409, "last-administrator")
    (await isp.api.send("DELETE", f"{V1}/users/{admin['id']}")).problem(409, "last-administrator")
    second = await joined(public, isp.api, isp.slug, "tenant_admin")
    (await isp.api.send("DELETE", f"{V1}/users/{admin['id']}")).expect(204)
    (await second.api.send("DELETE", f"{V1}/users/{second.id}")).problem(409, "last-administrator")


async def test_two_administrators_who_remove_each_other_at_once_do_not_both_go(public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    (first,) = (await isp.api.send("GET", f"{V1}/users")).expect(200)["items"]
    second = await joined(public, isp.api, isp.slug, "tenant_admin")
    answers = await asyncio.gather(
        isp.api.send("DELETE", f"{V1}/users/{second.id}"),
        second.api.send("DELETE", f"{V1}/users/{first['id']}"),
    )
    assert sorted(answer.status for answer in answers)[0] == 204
    assert sorted(answer.status for answer in answers)[1] in (401, 409)


async def test_a_role_of_the_tenants_own_comes_changes_and_goes(stack: Stack, public: Api, isp: Tenant) -> None:
    data = {"name": "night_shift", "description": "On call", "scopes": ["customers:read", "billing:read"]}
    answer = await isp.api.send("POST", f"{V1}/roles", data)
    role = answer.expect(201)
    path = f"{V1}/roles/{role['id']}"
    assert (await isp.api.send("GET", path)).expect(200) == role
    assert role in (await isp.api.send("GET", f"{V1}/roles")).expect(200)["items"]
    user = await joined(public, isp.api, isp.slug, "night_shift")
    assert await scopes_of(user.api) == {"customers:read", "billing:read"}
    (await isp.api.send("DELETE", path)).problem(409, "role-in-use")
    changed = await isp.api.send("PATCH", path, {"scopes": ["customers:read"]}, headers={"If-Match": '"1"'})
    assert (changed.expect(200)["version"], changed.body["description"]) == (2, "On call")
    await ended(stack, user.api)
    (await refresh(public, user)).expect(200)
    assert await scopes_of(user.api) == {"customers:read"}
    (await change(isp.api, user.id, roles=["customer"])).expect(200)
    (await isp.api.send("DELETE", path)).expect(204)
    (await isp.api.send("GET", path)).problem(404)
    (await change(isp.api, user.id, roles=["night_shift"])).problem(422, "unknown-role")


@pytest.mark.parametrize(
    ("name", "scopes", "status", "slug"),
    [
        ("manager", [], 409, "role-exists"),
        ("tenant_admin", [], 409, "role-exists"),
        ("x", [], 422, "invalid-request"),
        ("Upper", [], 422, "invalid-request"),
        ("wild", ["*"], 422, "invalid-request"),
        ("wild", ["tenants:write"], 422, "unknown-scope"),
        ("wild", ["nothing:read"], 422, "unknown-scope"),
    ],
)
async def test_a_role_that_can_not_be_is_refused(
    isp: Tenant, name: str, scopes: list[str], status: int, slug: str
) -> None:
    (await isp.api.send("POST", f"{V1}/roles", {"name": name, "scopes": scopes})).problem(status, slug)


async def test_a_role_is_its_tenants_own(public: Api, isp: Tenant, other: Tenant) -> None:
    data = {"name": "only_theirs", "scopes": ["customers:read"]}
    (await isp.api.send("POST", f"{V1}/roles", data)).expect(201)
    (await isp.api.send("POST", f"{V1}/roles", data)).problem(409, "role-exists")
    (await invited(other.api, "only_theirs")).problem(422, "unknown-role")
    mine = (await other.api.send("POST", f"{V1}/roles", data)).expect(201)
    (await isp.api.send("DELETE", f"{V1}/roles/{mine['id']}")).problem(404)
    (await other.api.send("DELETE", f"{V1}/roles/{mine['id']}")).expect(204)


async def test_the_built_in_roles_are_told(isp: Tenant, platform: Api) -> None:
    for api, roles in ((isp.api, TENANT_ROLES), (platform, PLATFORM_ROLES)):
        items = (await api.send("GET", f"{V1}/built-in-roles")).expect(200)["items"]
        assert {item["name"]: frozenset(item["scopes"]) for item in items} == roles


async def test_a_tenant_knows_no_platform_roles(isp: Tenant, platform: Api) -> None:
    for role in ("super_admin", "platform_admin", "readonly"):
        (await invited(isp.api, role)).problem(422, "unknown-role")
    (await invited(platform, "tenant_admin")).problem(422, "unknown-role")


async def test_the_platform_changes_its_own_users_only(platform: Api, isp: Tenant) -> None:
    (await isp.api.send("GET", f"{V1}/users")).expect(200)
    params = {"tenant_id": isp.id}
    user = (await platform.send("GET", f"{V1}/users", params=params)).expect(200)["items"][0]["id"]
    (await platform.send("GET", f"{V1}/users/{user}")).expect(200)
    (await change(platform, user, disabled=True)).problem(404)
    (await platform.send("DELETE", f"{V1}/users/{user}")).problem(404)


async def test_the_platform_keeps_one_who_administers_it(stack: Stack, public: Api, platform: Api) -> None:
    page = (await platform.send("GET", f"{V1}/users", params={"limit": "200"})).expect(200)
    admin = next(item for item in page["items"] if item["email"] == stack.administrator[0])
    assert admin["roles"] == ["super_admin"]
    (await change(platform, admin["id"], disabled=True)).problem(409, "last-administrator")
    lesser = await joined(public, platform, None, "platform_admin")
    (await change(lesser.api, admin["id"], disabled=True)).problem(403, "more-than-own-scopes")
    (await invited(lesser.api, "super_admin")).problem(403, "more-than-own-scopes")
    (await lesser.api.send("POST", f"{V1}/roles", {"name": "mine", "scopes": []})).problem(403, "missing-scope")
    (await platform.send("DELETE", f"{V1}/users/{lesser.id}")).expect(204)
