"""What programs sign in with: API keys, and service accounts with their secrets."""

import asyncio
import base64
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from chassis.security.tokens import TokenIssuer
from deploy.stack.stack import Stack
from tests.api import Answer, Api
from tests.conftest import PASSWORD, Tenant, sign_in
from tests.integration.test_revocations import READ, believed, ended
from tests.integration.test_users import ANY, joined

V1 = "/api/v1"
EXCHANGE = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token_type": "urn:dotmac:params:oauth:token-type:api-key",
}
CLIENT = {"grant_type": "client_credentials"}
READING = ["billing:read", "customers:read", "deployments:read", "users:read"]


async def key_of(api: Api, scopes: list[str], **more: Any) -> Any:
    body = {"name": "a key", "scopes": scopes, **more}
    return (await api.send("POST", f"{V1}/api-keys", body)).expect(201)


async def exchanged(public: Api, key: str, **form: str) -> Answer:
    return await public.send("POST", f"{V1}/auth/token", form={**EXCHANGE, "subject_token": key, **form})


async def account_of(api: Api, scopes: list[str]) -> Any:
    body = {"name": "a program", "scopes": scopes}
    return (await api.send("POST", f"{V1}/service-accounts", body)).expect(201)


async def entered(public: Api, client: str, secret: str, **form: str) -> Answer:
    data = {**CLIENT, "client_id": client, "client_secret": secret, **form}
    return await public.send("POST", f"{V1}/auth/token", form=data)


async def test_a_key_is_exchanged_for_access_tokens_until_it_is_revoked(stack: Stack, public: Api, isp: Tenant) -> None:
    key = await key_of(isp.api, READING)
    assert key["key"].startswith(key["prefix"])
    first, second = [(await exchanged(public, key["key"])).expect(200) for _ in range(2)]
    assert (first["scope"].split(), first["refresh_token"]) == (READING, None)
    api, another = public.as_(first["access_token"]), public.as_(second["access_token"])
    assert await believed(stack, api) == set(READ)
    (await api.send("POST", f"{V1}/customers", {"name": "x"})).problem(403, "missing-scope")
    shown = (await isp.api.send("GET", f"{V1}/api-keys/{key['id']}")).expect(200)
    assert "key" not in shown
    assert shown["last_used_at"] is not None
    assert shown in (await isp.api.send("GET", f"{V1}/api-keys")).expect(200)["items"]
    # Logging out ends a token, not the key.
    (await another.send("POST", f"{V1}/auth/logout")).expect(204)
    await ended(stack, another)
    assert await believed(stack, api) == set(READ)
    (await isp.api.send("DELETE", f"{V1}/api-keys/{key['id']}")).expect(204)
    (await exchanged(public, key["key"])).problem(401, "invalid-api-key")
    (await isp.api.send("DELETE", f"{V1}/api-keys/{key['id']}")).problem(404)
    await ended(stack, api)


async def test_a_key_allows_no_more_than_its_user(stack: Stack, public: Api, isp: Tenant) -> None:
    user = await joined(public, isp.api, isp.slug, "tenant_admin")
    wide = [*READING, "credentials:write"]
    key = await key_of(user.api, wide)
    api = public.as_((await exchanged(public, key["key"])).expect(200)["access_token"])
    # Nor more than its maker, who may do less than the user by this token.
    narrow = public.as_(TokenIssuer(stack.jwt_secret_key).issue(user.id, UUID(isp.id), wide))
    more = {"name": "wider", "scopes": ["billing:write"]}
    (await narrow.send("POST", f"{V1}/api-keys", more)).problem(403, "more-than-own-scopes")
    path = f"{V1}/users/{user.id}"
    (await isp.api.send("PATCH", path, {"roles": ["technician"]}, headers=ANY)).expect(200)
    await ended(stack, api)
    assert (await exchanged(public, key["key"])).expect(200)["scope"] == "customers:read"
    (await isp.api.send("PATCH", path, {"disabled": True}, headers=ANY)).expect(200)
    (await exchanged(public, key["key"])).problem(401, "invalid-api-key")
    (await isp.api.send("DELETE", path)).expect(204)
    (await isp.api.send("GET", f"{V1}/api-keys/{key['id']}")).problem(404)


async def test_a_key_is_not_its_user_and_has_nothing_of_his_own_without_a_scope(public: Api, isp: Tenant) -> None:
    user = await joined(public, isp.api, isp.slug, "tenant_admin")
    (session,) = (await user.api.send("GET", f"{V1}/sessions")).expect(200)["items"]
    listing, ending = f"{V1}/sessions", f"{V1}/sessions/{session['id']}"

    async def with_scopes(*scopes: str) -> Api:
        key = await key_of(user.api, list(scopes))
        return public.as_((await exchanged(public, key["key"])).expect(200)["access_token"])

    key = await with_scopes()
    for whose in ({}, {"user_id": user.id}):
        (await key.send("GET", listing, params=whose)).problem(403, "missing-scope")
    (await key.send("DELETE", ending)).problem(404)
    factor, password = f"{V1}/auth/second-factor", {"current_password": "wrong"}
    (await key.send("GET", factor)).problem(403, "not-a-user")
    (await key.send("POST", f"{factor}/confirm", {"code": "000000"})).problem(403, "not-a-user")
    for path, more in (
        (f"{V1}/auth/password", {"new_password": PASSWORD}),
        (factor, {}),
        (f"{factor}/remove", {"code": "000000"}),
        (f"{factor}/recovery-codes", {"code": "000000"}),
    ):
        (await key.send("POST", path, {**password, **more})).problem(403, "wrong-password")
    account = await account_of(isp.api, [])
    program = public.as_((await entered(public, account["id"], account["secret"])).expect(200)["access_token"])
    (await program.send("GET", listing)).problem(403, "missing-scope")

    reading = await with_scopes("users:read")
    shown = (await reading.send("GET", listing)).expect(200)["items"]
    assert [item["id"] for item in shown] == [session["id"]]
    (await reading.send("DELETE", ending)).problem(404)
    (await (await with_scopes("users:write")).send("DELETE", ending)).expect(204)
    form = {"grant_type": "refresh_token", "refresh_token": user.refresh_token}
    (await public.send("POST", f"{V1}/auth/token", form=form)).problem(401, "invalid-refresh-token")


async def test_a_key_makes_nothing_that_goes_on_without_it(public: Api, isp: Tenant) -> None:
    account = await account_of(isp.api, ["customers:read"])
    path = f"{V1}/service-accounts/{account['id']}"
    key = await key_of(isp.api, ["credentials:read", "credentials:write", "customers:read"])
    api = public.as_((await exchanged(public, key["key"])).expect(200)["access_token"])
    body = {"name": "offspring", "scopes": ["customers:read"]}
    for making in (f"{V1}/api-keys", f"{V1}/service-accounts", f"{path}/credentials"):
        (await api.send("POST", making, {} if making.startswith(path) else body)).problem(403, "made-by-a-key")
    assert len((await isp.api.send("GET", path)).expect(200)["credentials"]) == 1
    # What is there it may end, itself as well.
    (await api.send("DELETE", path)).expect(204)
    (await api.send("DELETE", f"{V1}/api-keys/{key['id']}")).expect(204)


async def test_a_key_is_over_after_its_time(public: Api, isp: Tenant, database: "asyncpg.Connection[Any]") -> None:
    key = await key_of(isp.api, ["customers:read"], expires_in_days=1)
    soon = "update api_key set expires_at = now() + interval '60 seconds' where api_key_id = $1"
    await database.execute(soon, key["id"])
    assert (await exchanged(public, key["key"])).expect(200)["expires_in"] <= 60
    await database.execute("update api_key set expires_at = now() where api_key_id = $1", key["id"])
    (await exchanged(public, key["key"])).problem(401, "invalid-api-key")


async def test_a_token_may_be_asked_for_with_fewer_scopes(public: Api, isp: Tenant) -> None:
    key, account = await key_of(isp.api, READING), await account_of(isp.api, READING)
    for answer in (
        await exchanged(public, key["key"], scope="customers:read"),
        await entered(public, account["id"], account["secret"], scope="customers:read"),
    ):
        assert answer.expect(200)["scope"] == "customers:read"
    (await exchanged(public, key["key"], scope="customers:write")).problem(422, "invalid-scope")
    (await entered(public, account["id"], account["secret"], scope="tenants:read")).problem(422, "invalid-scope")


async def test_a_token_of_another_type_is_not_exchanged(public: Api, isp: Tenant) -> None:
    key = await key_of(isp.api, [])
    wrong = "urn:ietf:params:oauth:token-type:access_token"
    (await exchanged(public, key["key"], subject_token_type=wrong)).problem(422, "unsupported-token-type")
    form = {"grant_type": EXCHANGE["grant_type"], "subject_token": key["key"]}
    (await public.send("POST", f"{V1}/auth/token", form=form)).problem(422, "incomplete-grant")


@pytest.mark.parametrize("key", ["x", "dmk_00000000_" + "A" * 43, "é" * 60])
async def test_a_key_that_nobody_made_is_refused(public: Api, key: str) -> None:
    (await exchanged(public, key)).problem(401, "invalid-api-key")


async def test_a_service_account_signs_in_by_form_and_by_basic(stack: Stack, public: Api, isp: Tenant) -> None:
    account = await account_of(isp.api, READING)
    credentials = base64.b64encode(f"{account['id']}:{account['secret']}".encode()).decode()
    basic = {"Authorization": f"Basic {credentials}"}
    for answer in (
        await entered(public, account["id"], account["secret"]),
        await public.send("POST", f"{V1}/auth/token", form=CLIENT, headers=basic),
    ):
        token = answer.expect(200)
        assert (token["scope"].split(), token["refresh_token"]) == (READING, None)
        assert await believed(stack, public.as_(token["access_token"])) == set(READ)
    both = {**CLIENT, "client_id": account["id"], "client_secret": account["secret"]}
    (await public.send("POST", f"{V1}/auth/token", form=both, headers=basic)).problem(422, "incomplete-grant")
    bad = {"Authorization": "Basic ???"}
    (await public.send("POST", f"{V1}/auth/token", form=CLIENT, headers=bad)).problem(422, "incomplete-grant")
    (await public.send("POST", f"{V1}/auth/token", form=CLIENT)).problem(422, "incomplete-grant")


async def test_a_secret_is_replaced_without_a_gap(stack: Stack, public: Api, isp: Tenant) -> None:
    account = await account_of(isp.api, READING)
    path = f"{V1}/service-accounts/{account['id']}"
    second = (await isp.api.send("POST", f"{path}/credentials", {})).expect(201)
    (await isp.api.send("POST", f"{path}/credentials", {})).problem(409, "too-many-credentials")
    old = public.as_((await entered(public, account["id"], account["secret"])).expect(200)["access_token"])
    new = public.as_((await entered(public, account["id"], second["secret"])).expect(200)["access_token"])
    shown = (await isp.api.send("GET", path)).expect(200)
    assert [item["id"] for item in shown["credentials"]] == [account["credential_id"], second["credential_id"]]
    assert all(item["last_used_at"] for item in shown["credentials"])
    (await isp.api.send("DELETE", f"{path}/credentials/{account['credential_id']}")).expect(204)
    (await isp.api.send("DELETE", f"{path}/credentials/{account['credential_id']}")).problem(404)
    (await entered(public, account["id"], account["secret"])).problem(401, "invalid-client")
    await ended(stack, old)
    assert await believed(stack, new) == set(READ)
    (await isp.api.send("DELETE", path)).expect(204)
    (await entered(public, account["id"], second["secret"])).problem(401, "invalid-client")
    await ended(stack, new)


async def test_a_secret_is_over_after_its_time_and_makes_room(
    public: Api, isp: Tenant, database: "asyncpg.Connection[Any]"
) -> None:
    account = await account_of(isp.api, READING)
    path = f"{V1}/service-accounts/{account['id']}/credentials"
    second = (await isp.api.send("POST", path, {"expires_in_days": 1})).expect(201)
    over = "update service_account_credential set expires_at = now() where credential_id = $1"
    await database.execute(over, second["credential_id"])
    (await entered(public, account["id"], second["secret"])).problem(401, "invalid-client")
    (await isp.api.send("POST", path, {})).expect(201)


async def test_wrong_clients_are_refused_alike(public: Api, isp: Tenant) -> None:
    account, another = await account_of(isp.api, []), await account_of(isp.api, [])
    answers = [
        await entered(public, client, secret)
        for client, secret in (
            (account["id"], another["secret"]),
            (account["id"], "x"),
            (str(uuid4()), account["secret"]),
            ("no id", account["secret"]),
            (account["id"].upper(), "y"),
        )
    ]
    for answer in answers:
        answer.problem(401, "invalid-client")
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert all(answer.body == answers[0].body for answer in answers)


async def test_nobody_makes_an_account_that_may_do_more(public: Api, isp: Tenant) -> None:
    narrow = ["credentials:read", "credentials:write", "customers:read"]
    account = await account_of(isp.api, narrow)
    program = public.as_((await entered(public, account["id"], account["secret"])).expect(200)["access_token"])
    wider = {"name": "wider", "scopes": ["customers:write"]}
    (await program.send("POST", f"{V1}/service-accounts", wider)).problem(403, "more-than-own-scopes")
    above = await account_of(isp.api, READING)
    path = f"{V1}/service-accounts/{above['id']}/credentials"
    (await program.send("POST", path, {})).problem(403, "more-than-own-scopes")
    (await program.send("POST", f"{V1}/api-keys", {"name": "x", "scopes": []})).problem(403, "not-a-user")
    await account_of(program, ["customers:read"])


async def test_an_accounts_scopes_are_changed_and_with_fewer_its_tokens_end(
    stack: Stack, public: Api, isp: Tenant
) -> None:
    account = await account_of(isp.api, READING)
    path = f"{V1}/service-accounts/{account['id']}"

    async def token() -> tuple[list[str], Api]:
        answer = (await entered(public, account["id"], account["secret"])).expect(200)
        return answer["scope"].split(), public.as_(answer["access_token"])

    _, first = await token()
    shown = await isp.api.send("GET", path)
    (await isp.api.send("PATCH", path, {"scopes": []})).problem(428)
    match = {"If-Match": shown.headers["ETag"]}
    wider = sorted([*READING, "customers:write"])
    body = {"scopes": wider, "description": "Writes as well"}
    changed = await isp.api.send("PATCH", path, body, headers=match)
    assert (changed.expect(200)["scopes"], changed.body["description"]) == (wider, "Writes as well")
    assert changed.headers["ETag"] != match["If-Match"]
    (await isp.api.send("PATCH", path, {"scopes": []}, headers=match)).problem(412)
    # What was issued keeps what it had, and the next one has more.
    (await first.send("POST", f"{V1}/customers", {"name": "x"})).problem(403, "missing-scope")
    scopes, second = await token()
    assert scopes == wider
    assert await believed(stack, first) == set(READ)
    (await second.send("POST", f"{V1}/customers", {"name": "x"})).expect(201)

    match = {"If-Match": changed.headers["ETag"]}
    (await isp.api.send("PATCH", path, {"scopes": ["customers:read"]}, headers=match)).expect(200)
    for before in (first, second):
        await ended(stack, before)
    assert (await token())[0] == ["customers:read"]
    same = await isp.api.send("PATCH", path, {"scopes": ["customers:read"]}, headers={"If-Match": "*"})
    assert same.expect(200)["version"] == 3


async def test_nobody_changes_an_account_that_may_do_more(public: Api, isp: Tenant, other: Tenant) -> None:
    narrow = ["credentials:read", "credentials:write", "customers:read"]
    account = await account_of(isp.api, narrow)
    program = public.as_((await entered(public, account["id"], account["secret"])).expect(200)["access_token"])
    path, any_version = f"{V1}/service-accounts/{account['id']}", {"If-Match": "*"}
    wider = {"scopes": [*narrow, "customers:write"]}
    (await program.send("PATCH", path, wider, headers=any_version)).problem(403, "more-than-own-scopes")
    above = f"{V1}/service-accounts/{(await account_of(isp.api, READING))['id']}"
    (await program.send("PATCH", above, {"scopes": []}, headers=any_version)).problem(403, "more-than-own-scopes")
    (await program.send("DELETE", above)).problem(403, "more-than-own-scopes")
    (secret,) = (await isp.api.send("GET", above)).expect(200)["credentials"]
    (await program.send("DELETE", f"{above}/credentials/{secret['id']}")).problem(403, "more-than-own-scopes")
    (await other.api.send("PATCH", above, {"scopes": []}, headers=any_version)).problem(404)
    for body in ({"scopes": ["no:such"]}, {"scopes": None}, {"name": "x"}):
        (await isp.api.send("PATCH", above, body, headers=any_version)).problem(422)


async def test_an_account_is_made_once_and_its_limits_hold_at_once(public: Api, isp: Tenant) -> None:
    body, key = {"name": "once", "scopes": []}, {"Idempotency-Key": uuid4().hex}
    first, again = [await isp.api.send("POST", f"{V1}/service-accounts", body, headers=key) for _ in range(2)]
    assert first.expect(201) == again.expect(201)
    path = f"{V1}/service-accounts/{first.body['id']}/credentials"
    answers = await asyncio.gather(*(isp.api.send("POST", path, {}) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409, 409]
    listed = (await isp.api.send("GET", f"{V1}/service-accounts", params={"limit": "200"})).expect(200)["items"]
    assert [item["id"] for item in listed].count(first.body["id"]) == 1


async def test_the_platform_has_programs_as_well(public: Api, platform: Api, stack: Stack) -> None:
    account = await account_of(platform, ["tenants:read"])
    token = (await entered(public, account["id"], account["secret"])).expect(200)["access_token"]
    (await public.as_(token).send("GET", f"{V1}/tenants")).expect(200)
    (await platform.send("DELETE", f"{V1}/service-accounts/{account['id']}")).expect(204)
    key = await key_of(public.as_(await sign_in(public, *stack.administrator)), ["tenants:read"])
    token = (await exchanged(public, key["key"])).expect(200)["access_token"]
    (await public.as_(token).send("GET", f"{V1}/tenants")).expect(200)
    (await platform.send("DELETE", f"{V1}/api-keys/{key['id']}")).expect(204)


async def test_keys_and_secrets_are_kept_as_hashes(
    stack: Stack, isp: Tenant, database: "asyncpg.Connection[Any]"
) -> None:
    key, account = await key_of(isp.api, []), await account_of(isp.api, [])
    for table, column in (("api_key", "key_hash"), ("service_account_credential", "secret_hash")):
        rows = [dict(row) for row in await database.fetch(f"select * from {table}")]
        assert rows
        assert all(len(row[column]) == 32 for row in rows)
        assert key["key"] not in str(rows)
        assert account["secret"] not in str(rows)
    relay = await asyncpg.connect(stack.database_url("tenant", "relay"))
    try:
        told = str(
            [row["value"] for row in await relay.fetch("select value from journal union all select value from outbox")]
        )
    finally:
        await relay.close()
    assert key["prefix"] in told
    assert key["key"] not in told
    assert account["secret"] not in told
    assert PASSWORD not in told
