"""The second factor: a code beside the password, each good once."""

import asyncio
import base64
import time
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from services.tenant.domain.totp import PERIOD_SECONDS, code_of
from tests.api import Answer, Api
from tests.conftest import PASSWORD, Tenant
from tests.integration.test_users import User, joined, signed_in

V1 = "/api/v1"
FACTOR = f"{V1}/auth/second-factor"


@dataclass
class App:
    """An authenticator app, which may be a step early: so a test need not wait for the next code."""

    secret: bytes
    early: int = 0

    def code(self) -> str:
        return code_of(self.secret, int(time.time()) // PERIOD_SECONDS + self.early)


async def begun(user: User) -> App:
    answer = (await user.api.send("POST", FACTOR, {"current_password": PASSWORD})).expect(201)
    return App(base64.b32decode(answer["secret"]))


async def enabled(user: User) -> tuple[App, list[str]]:
    app = await begun(user)
    codes = (await user.api.send("POST", f"{FACTOR}/confirm", {"code": app.code()})).expect(200)["recovery_codes"]
    app.early += 1
    return app, codes


@pytest.fixture
async def user(public: Api, isp: Tenant) -> User:
    return await joined(public, isp.api, isp.slug, "sales")


@pytest.fixture
def entering(public: Api, isp: Tenant, user: User) -> Any:
    async def enter(code: str | None = None) -> Answer:
        return await signed_in(public, user.email, isp.slug, **({"code": code} if code is not None else {}))

    return enter


async def test_a_sign_in_asks_for_a_code_once_it_is_confirmed_and_each_is_good_once(user: User, entering: Any) -> None:
    app = await begun(user)
    (await entering()).expect(200)  # begun is not confirmed
    (await user.api.send("POST", f"{FACTOR}/confirm", {"code": "000000"})).problem(403, "wrong-code")
    first = app.code()
    codes = (await user.api.send("POST", f"{FACTOR}/confirm", {"code": first})).expect(200)["recovery_codes"]
    assert len(set(codes)) == 10
    (await user.api.send("POST", f"{FACTOR}/confirm", {"code": first})).problem(409, "no-second-factor-begun")
    (await entering()).problem(401, "second-factor-required")
    (await entering("000000")).problem(401, "wrong-code")
    (await entering(first)).problem(401, "wrong-code")  # it confirmed
    app.early += 1
    code = app.code()
    (await entering(f"{code[:3]} {code[3:]}")).expect(200)
    (await entering(code)).problem(401, "wrong-code")
    state = (await user.api.send("GET", FACTOR)).expect(200)
    assert state == {"enabled": True, "recovery_codes_left": 10}


async def test_of_many_sign_ins_with_one_code_one_is_let_in(user: User, entering: Any) -> None:
    app, codes = await enabled(user)
    for code in (app.code(), codes[0]):
        answers = await asyncio.gather(*(entering(code) for _ in range(4)))
        assert sorted(answer.status for answer in answers) == [200, 401, 401, 401]


async def test_a_recovery_code_is_good_once_however_it_is_written(user: User, entering: Any) -> None:
    _, codes = await enabled(user)
    (await entering(codes[0].lower().replace("-", " "))).expect(200)
    (await entering(codes[0])).problem(401, "wrong-code")
    (await entering(codes[1])).expect(200)
    assert (await user.api.send("GET", FACTOR)).expect(200)["recovery_codes_left"] == 8


async def test_a_wrong_password_tells_nothing_of_the_factor(public: Api, isp: Tenant, user: User) -> None:
    await enabled(user)
    for code in (None, "000000"):
        form = {"username": user.email, "password": "wrong", "tenant": isp.slug, **({"code": code} if code else {})}
        (await public.send("POST", f"{V1}/auth/token", form=form)).problem(401, "invalid-credentials")


async def test_codes_can_not_be_tried_without_end(user: User, entering: Any) -> None:
    await enabled(user)
    answers = [await entering("000000") for _ in range(12)]
    assert [answer.status for answer in answers[:10]] == [401] * 10
    assert 429 in [answer.status for answer in answers[10:]]


async def test_it_is_begun_and_removed_by_password_and_code(user: User, entering: Any) -> None:
    (await user.api.send("POST", FACTOR, {"current_password": "wrong"})).problem(403, "wrong-password")
    first = await begun(user)
    app, codes = await enabled(user)  # begun anew, the first is forgotten
    assert app.secret != first.secret
    (await user.api.send("POST", FACTOR, {"current_password": PASSWORD})).problem(409, "second-factor-exists")
    path, body = f"{FACTOR}/remove", {"current_password": PASSWORD, "code": app.code()}
    (await user.api.send("POST", path, {**body, "code": "000000"})).problem(403, "wrong-code")
    (await user.api.send("POST", path, {**body, "current_password": "wrong"})).problem(403, "wrong-password")
    (await user.api.send("POST", path, body)).expect(204)
    (await user.api.send("POST", path, body)).problem(409, "no-second-factor")
    (await entering()).expect(200)
    (await entering(codes[0])).expect(200)  # nobody asks for it


async def test_recovery_codes_are_renewed_by_the_app_and_those_before_are_void(user: User, entering: Any) -> None:
    path = f"{FACTOR}/recovery-codes"
    body = {"current_password": PASSWORD, "code": "000000"}
    (await user.api.send("POST", path, body)).problem(409, "no-second-factor")
    app, before = await enabled(user)
    (await entering(before[0])).expect(200)
    (await user.api.send("POST", path, body)).problem(403, "wrong-code")
    (await user.api.send("POST", path, {**body, "code": before[1]})).problem(403, "wrong-code")
    (await user.api.send("POST", path, {"code": app.code()})).problem(422)
    code = app.code()
    (await user.api.send("POST", path, {"current_password": "wrong", "code": code})).problem(403, "wrong-password")
    (await user.api.send("GET", FACTOR)).expect(200)
    codes = (await user.api.send("POST", path, {**body, "code": code})).expect(200)["recovery_codes"]
    assert len({*codes, *before}) == 20
    (await user.api.send("POST", path, {**body, "code": code})).problem(403, "wrong-code")  # it was good once
    assert (await user.api.send("GET", FACTOR)).expect(200)["recovery_codes_left"] == 10
    (await entering(before[1])).problem(401, "wrong-code")
    (await entering(codes[0])).expect(200)


async def test_an_administrator_removes_it_for_one_who_lost_it(
    public: Api, platform: Api, isp: Tenant, other: Tenant, user: User, entering: Any
) -> None:
    await enabled(user)
    path = f"{V1}/users/{user.id}/second-factor"
    (await other.api.send("DELETE", path)).problem(404)
    data = {"name": "helpdesk", "scopes": ["users:read", "users:write"]}
    (await isp.api.send("POST", f"{V1}/roles", data)).expect(201)
    helpdesk = await joined(public, isp.api, isp.slug, "helpdesk")
    (await helpdesk.api.send("DELETE", path)).problem(403, "more-than-own-scopes")
    (await isp.api.send("DELETE", path)).expect(204)
    (await isp.api.send("DELETE", path)).problem(404)
    (await entering()).expect(200)
    await enabled(user)
    (await platform.send("DELETE", path)).expect(204)
    (await entering()).expect(200)


async def test_the_secret_is_sealed_and_the_codes_are_hashed(
    user: User, entering: Any, database: "asyncpg.Connection[Any]"
) -> None:
    app, codes = await enabled(user)
    kept = await database.fetchval("select sealed_secret from second_factor where user_id = $1", user.id)
    assert app.secret not in kept
    assert base64.b32encode(app.secret) not in kept
    hashes = [row["code_hash"] for row in await database.fetch("select code_hash from recovery_code")]
    assert all(len(found) == 32 for found in hashes)
    (await entering(app.code())).expect(200)
    assert await database.fetchval("select sealed_secret from second_factor where user_id = $1", user.id) != kept
    assert not any(code in str(kept) for code in codes)


async def test_a_program_has_none(public: Api, isp: Tenant) -> None:
    body = {"name": "x", "scopes": []}
    account = (await isp.api.send("POST", f"{V1}/service-accounts", body)).expect(201)
    form = {"grant_type": "client_credentials", "client_id": account["id"], "client_secret": account["secret"]}
    token = (await public.send("POST", f"{V1}/auth/token", form=form)).expect(200)["access_token"]
    (await public.as_(token).send("GET", FACTOR)).problem(403, "not-a-user")
    (await public.as_(token).send("POST", FACTOR, {"current_password": "x"})).problem(403, "not-a-user")
