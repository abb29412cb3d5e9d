"""Sessions: what opens, refreshes and ends them; passwords; and how often one may be tried."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from argon2 import PasswordHasher

from chassis.security.tokens import TokenIssuer
from deploy.stack.stack import Stack
from services.tenant.domain.attempts import FREE
from services.tenant.use_cases.bootstrap import bootstrap
from tests.api import Api, eventually
from tests.conftest import PASSWORD, Tenant, deploy, registration, sign_in
from tests.in_process import service_in_process
from tests.integration.test_revocations import READ, believed, ended, published, user_of

V1 = "/api/v1"
NEW_PASSWORD = "another correct horse"


@dataclass
class Session:
    """What a client holds of a session."""

    api: Api
    public: Api
    refresh_token: str

    async def refresh(self) -> Any:
        return await refreshed(self.public, self.refresh_token)

    async def go_on(self) -> None:
        answer = (await self.refresh()).expect(200)
        self.api, self.refresh_token = self.public.as_(answer["access_token"]), answer["refresh_token"]


SignIn = Callable[..., Awaitable[Session]]


async def refreshed(public: Api, token: str) -> Any:
    form = {"grant_type": "refresh_token", "refresh_token": token}
    return await public.send("POST", f"{V1}/auth/token", form=form)


@pytest.fixture
def signed_in(public: Api, isp: Tenant) -> SignIn:
    async def open_one(password: str = PASSWORD, tenant: Tenant = isp, **headers: str) -> Session:
        form = {"username": tenant.administrator, "password": password, "tenant": tenant.slug}
        answer = (await public.send("POST", f"{V1}/auth/token", form=form, headers=headers)).expect(200)
        return Session(public.as_(answer["access_token"]), public, answer["refresh_token"])

    return open_one


async def sessions(api: Api, **params: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await api.send("GET", f"{V1}/sessions", params=params)).expect(200)["items"]
    return items


async def current(api: Api) -> str:
    (found,) = [item["id"] for item in await sessions(api) if item["current"]]
    return str(found)


async def test_a_session_is_refreshed_and_stays_the_same_one(stack: Stack, signed_in: SignIn) -> None:
    session = await signed_in(**{"User-Agent": "a test/1.0"})
    first = next(item for item in await sessions(session.api) if item["current"])
    assert first["user_agent"] == "a test/1.0"
    before = session.api
    for _ in range(3):
        await session.go_on()
    later = next(item for item in await sessions(session.api) if item["current"])
    assert (later["id"], later["expires_at"]) == (first["id"], first["expires_at"])
    assert later["used_at"] > first["used_at"]
    assert await believed(stack, session.api) == set(READ)
    assert await believed(stack, before) == set(READ)  # it ends by itself, in minutes


async def test_a_refresh_token_that_comes_twice_ends_its_session_and_no_other(stack: Stack, signed_in: SignIn) -> None:
    session, another = await signed_in(), await signed_in()
    stolen = session.refresh_token
    await session.go_on()
    (await refreshed(session.public, stolen)).problem(401, "invalid-refresh-token")
    (await session.refresh()).problem(401, "invalid-refresh-token")
    await ended(stack, session.api)
    assert await believed(stack, another.api) == set(READ)
    await another.go_on()
    told = (await published(stack, await user_of(another.api)))[-1]
    assert told["reason"] == "reused"


async def test_of_many_refreshes_at_once_one_is_answered_and_the_session_ends(stack: Stack, signed_in: SignIn) -> None:
    session = await signed_in()
    answers = await asyncio.gather(*(session.refresh() for _ in range(6)))
    good = [answer for answer in answers if answer.status == 200]
    assert len(good) == 1
    for answer in answers:
        if answer not in good:
            answer.problem(401, "invalid-refresh-token")
    (await refreshed(session.public, good[0].body["refresh_token"])).problem(401, "invalid-refresh-token")
    await ended(stack, session.public.as_(good[0].body["access_token"]))


@pytest.mark.parametrize("column", ["idle_until", "expires_at"])
async def test_a_session_ends_when_it_is_idle_or_old(
    signed_in: SignIn, database: "asyncpg.Connection[Any]", column: str
) -> None:
    session, asking = await signed_in(), await signed_in()
    identity = await current(session.api)
    done = await database.execute(
        f"update sign_in_session set {column} = now() - interval '1 second' where session_id = $1", identity
    )
    assert done == "UPDATE 1"
    assert identity not in [item["id"] for item in await sessions(asking.api)]
    (await session.refresh()).problem(401, "invalid-refresh-token")


async def test_the_tokens_of_a_session_do_not_outlive_it(
    signed_in: SignIn, database: "asyncpg.Connection[Any]"
) -> None:
    session = await signed_in()
    soon = "update sign_in_session set expires_at = now() + interval '60 seconds' where session_id = $1"
    await database.execute(soon, await current(session.api))
    answer = (await session.refresh()).expect(200)
    assert answer["expires_in"] <= 60
    assert answer["refresh_expires_in"] <= 60


@pytest.mark.parametrize("token", ["x", "a" * 43, "é" * 43, "x" * 200])
async def test_a_refresh_token_that_nobody_was_given_is_refused(public: Api, token: str) -> None:
    (await refreshed(public, token)).problem(401, "invalid-refresh-token")


async def test_a_grant_that_is_not_complete_is_refused(public: Api) -> None:
    for form in ({"grant_type": "refresh_token"}, {"username": "x"}, {"password": "x", "grant_type": "password"}):
        (await public.send("POST", f"{V1}/auth/token", form=form)).problem(422, "incomplete-grant")
    form = {"grant_type": "implicit", "username": "x", "password": "x"}
    (await public.send("POST", f"{V1}/auth/token", form=form)).problem(422, "invalid-request")


async def test_logging_out_ends_the_session(stack: Stack, signed_in: SignIn) -> None:
    session, another = await signed_in(), await signed_in()
    identity = await current(session.api)
    (await session.api.send("POST", f"{V1}/auth/logout")).expect(204)
    await ended(stack, session.api)
    (await session.refresh()).problem(401, "invalid-refresh-token")
    assert identity not in [item["id"] for item in await sessions(another.api)]


async def test_one_ends_a_session_of_ones_own(stack: Stack, signed_in: SignIn) -> None:
    lost, present = await signed_in(), await signed_in()
    identity = await current(lost.api)
    (await present.api.send("DELETE", f"{V1}/sessions/{identity}")).expect(204)
    (await present.api.send("DELETE", f"{V1}/sessions/{identity}")).problem(404)
    await ended(stack, lost.api)
    (await lost.refresh()).problem(401, "invalid-refresh-token")
    assert await believed(stack, present.api) == set(READ)


async def test_who_has_no_right_to_users_sees_and_ends_own_sessions_only(
    stack: Stack, public: Api, isp: Tenant, signed_in: SignIn
) -> None:
    session = await signed_in()
    user, identity = await user_of(session.api), await current(session.api)
    issuer = TokenIssuer(stack.jwt_secret_key)

    def with_scopes(*scopes: str) -> Api:
        return public.as_(issuer.issue(str(uuid4()), UUID(isp.id), scopes))

    (await with_scopes("customers:read").send("GET", f"{V1}/sessions", params={"user_id": user})).problem(403)
    assert await sessions(with_scopes("customers:read")) == []
    (await with_scopes("users:read").send("DELETE", f"{V1}/sessions/{identity}")).problem(404)
    assert identity in [item["id"] for item in await sessions(with_scopes("users:read"), user_id=user)]
    (await with_scopes("users:write").send("DELETE", f"{V1}/sessions/{identity}")).expect(204)
    await ended(stack, session.api)


async def test_revoking_a_users_tokens_ends_the_sessions(stack: Stack, signed_in: SignIn) -> None:
    held = [await signed_in() for _ in range(3)]
    user = await user_of(held[0].api)
    (await held[0].api.send("POST", f"{V1}/users/{user}/revocations")).expect(201)
    for session in held:
        (await session.refresh()).problem(401, "invalid-refresh-token")
        await ended(stack, session.api)
    new = await signed_in()
    assert [item["current"] for item in await sessions(new.api)] == [True]
    await new.go_on()


async def test_sign_ins_and_refreshes_that_race_a_revocation_leave_no_session_behind(
    stack: Stack, signed_in: SignIn, platform: Api
) -> None:
    held = [await signed_in() for _ in range(4)]
    user = await user_of(held[0].api)
    racing = [signed_in() for _ in range(3)] + [session.refresh() for session in held]
    revocation = platform.send("POST", f"{V1}/users/{user}/revocations")
    *answers, revoked = await asyncio.gather(*racing, revocation)
    moment = revoked.expect(201)["issued_before"]
    for answer in answers:
        if isinstance(answer, Session):
            opened, token = answer.api, answer.refresh_token
        elif answer.status == 200:
            opened, token = held[0].public.as_(answer.body["access_token"]), answer.body["refresh_token"]
        else:
            continue
        # Either all of it came after the revocation, or none of it is left.
        again = await refreshed(held[0].public, token)
        if again.status == 200:
            assert next(item for item in await sessions(opened) if item["current"])["created_at"] > moment[:19]
        else:
            await ended(stack, opened)


async def test_a_password_is_changed_and_the_other_sessions_end(
    stack: Stack, public: Api, platform: Api, signed_in: SignIn
) -> None:
    isp = await deploy(public, platform)
    present, another = await signed_in(tenant=isp), await signed_in(tenant=isp)
    path, body = f"{V1}/auth/password", {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    (await present.api.send("POST", path, {**body, "current_password": "wrong"})).problem(403, "wrong-password")
    (await present.api.send("POST", path, {**body, "new_password": "short"})).problem(422)
    await another.go_on()
    key = {"Idempotency-Key": uuid4().hex}
    (await present.api.send("POST", path, body, headers=key)).expect(204)
    again = await present.api.send("POST", path, body, headers=key)
    assert (again.status, again.headers["Idempotency-Replayed"]) == (204, "true")
    await ended(stack, another.api)
    (await another.refresh()).problem(401, "invalid-refresh-token")
    assert await believed(stack, present.api) == set(READ)
    await present.go_on()
    form = {"username": isp.administrator, "password": PASSWORD, "tenant": isp.slug}
    (await public.send("POST", f"{V1}/auth/token", form=form)).problem(401, "invalid-credentials")
    await signed_in(NEW_PASSWORD, isp)


async def test_a_password_that_is_forgotten_is_reset_by_an_administrator(
    stack: Stack, public: Api, platform: Api, signed_in: SignIn
) -> None:
    isp = await deploy(public, platform)
    session = await signed_in(tenant=isp)
    user = await user_of(session.api)
    names = (isp.administrator, "nobody@nowhere.example")
    answers = [
        await public.send("POST", f"{V1}/auth/password-resets", {"username": name, "tenant": isp.slug})
        for name in names
    ]
    assert [(answer.expect(202), answer.headers.keys()) for answer in answers] == [(b"", answers[0].headers.keys())] * 2

    async def asked() -> str | None:
        (row,) = (await session.api.send("GET", f"{V1}/users")).expect(200)["items"]
        moment: str | None = row["reset_requested_at"]
        return moment

    await eventually(asked)
    path = f"{V1}/users/{user}/password-resets"
    first = (await platform.send("POST", path)).expect(201)
    reset = (await session.api.send("POST", path)).expect(201)
    assert reset["email"] == isp.administrator
    accept, body = f"{V1}/auth/password-resets/accept", {"token": reset["token"], "password": NEW_PASSWORD}
    (await public.send("POST", accept, {**body, "token": first["token"]})).problem(400, "invalid-reset")
    (await public.send("POST", accept, {**body, "password": "short"})).problem(422)
    answers = await asyncio.gather(*(public.send("POST", accept, body) for _ in range(4)))
    assert sorted(answer.status for answer in answers) == [204, 400, 400, 400]
    await ended(stack, session.api)
    (await session.refresh()).problem(401, "invalid-refresh-token")
    new = await signed_in(NEW_PASSWORD, isp)
    assert await current(new.api)


async def test_a_reset_is_over_after_its_time(
    public: Api, signed_in: SignIn, database: "asyncpg.Connection[Any]"
) -> None:
    session = await signed_in()
    user = await user_of(session.api)
    reset = (await session.api.send("POST", f"{V1}/users/{user}/password-resets")).expect(201)
    await database.execute("update password_reset set expires_at = now() where user_id = $1", user)
    body = {"token": reset["token"], "password": NEW_PASSWORD}
    (await public.send("POST", f"{V1}/auth/password-resets/accept", body)).problem(400, "invalid-reset")
    await signed_in()


async def test_who_has_no_password_yet_is_invited_and_not_reset(platform: Api) -> None:
    tenant = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)
    (await platform.send("POST", f"{V1}/tenants/{tenant['id']}/deployments")).expect(202)

    async def created() -> str | None:
        items = (await platform.send("GET", f"{V1}/users", params={"tenant_id": tenant["id"]})).expect(200)["items"]
        return items[0]["id"] if items else None

    user = await eventually(created)
    (await platform.send("POST", f"{V1}/users/{user}/password-resets")).problem(409, "not-accepted")


async def test_another_password_in_the_settings_is_a_reset_of_the_platforms_first_administrator(
    stack: Stack, public: Api, platform: Api, database: "asyncpg.Connection[Any]"
) -> None:
    email = f"{secrets.token_hex(6)}@operators.example"  # the stack's own is the other tests' as well

    async def started(password: str) -> None:
        settings = {"bootstrap_admin_email": email, "bootstrap_admin_password": password}
        async with service_in_process(stack, "tenant", **settings) as parts:
            await bootstrap(parts)

    async def opened(password: str) -> Session:
        form = {"username": email, "password": password}
        answer = (await public.send("POST", f"{V1}/auth/token", form=form)).expect(200)
        return Session(public.as_(answer["access_token"]), public, answer["refresh_token"])

    await started(PASSWORD)
    user = str(await database.fetchval("select user_id from app_user where email = $1", email))
    try:
        stolen = await opened(PASSWORD)
        await started(PASSWORD)
        await stolen.go_on()  # nothing has changed
        await started(NEW_PASSWORD)
        (await stolen.refresh()).problem(401, "invalid-refresh-token")
        await ended(stack, stolen.api)
        told = (await published(stack, user))[-1]
        assert (told["issued_before"] is not None, told["sessions_ended"]) == (True, True)
        new = await opened(NEW_PASSWORD)
        await started(NEW_PASSWORD)
        await new.go_on()
    finally:
        (await platform.send("DELETE", f"{V1}/users/{user}")).expect(204)


async def test_a_password_hashed_with_weaker_parameters_is_hashed_anew_at_sign_in(
    signed_in: SignIn, isp: Tenant, database: "asyncpg.Connection[Any]"
) -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD)
    await database.execute("update app_user set password_hash = $1 where email = $2", weak, isp.administrator)
    await signed_in()
    kept = await database.fetchval("select password_hash from app_user where email = $1", isp.administrator)
    assert kept.startswith("$argon2id$v=19$m=65536,t=3")
    await signed_in()
    assert await database.fetchval("select password_hash from app_user where email = $1", isp.administrator) == kept


async def test_wrong_passwords_are_slowed_down_and_nothing_tells_whether_the_user_exists(
    public: Api, platform: Api, database: "asyncpg.Connection[Any]"
) -> None:
    isp = await deploy(public, platform)
    answers = {}
    for name in (isp.administrator, f"nobody@{uuid4().hex}.example"):
        form = {"username": name, "password": "wrong", "tenant": isp.slug}
        for _ in range(FREE):
            (await public.send("POST", f"{V1}/auth/token", form=form)).problem(401, "invalid-credentials")
        # Its second begins now, however long the last one was looked at.
        await database.execute("update sign_in_attempts set last_at = now() where failures = $1", FREE)
        # The right one is not even looked at, and other spellings are the same name.
        right = {**form, "username": name.upper(), "password": PASSWORD}
        answers[name] = await public.send("POST", f"{V1}/auth/token", form=right)
        answers[name].problem(429, "too-many-attempts")
        assert answers[name].headers["Retry-After"] == "1"
    one, another = answers.values()
    assert (one.body, one.headers.keys()) == (another.body, another.headers.keys())

    async def let_in() -> bool:
        form = {"username": isp.administrator, "password": PASSWORD, "tenant": isp.slug}
        return (await public.send("POST", f"{V1}/auth/token", form=form)).status == 200

    await eventually(let_in)
    kept = await database.fetch("select * from sign_in_attempts")
    assert kept
    # Hashes, in which no name stands; one may hold any byte, that of an @ too.
    assert {len(row["account"]) for row in kept} == {32}
    assert not [row for row in kept for name in answers if name.partition("@")[0].encode() in row["account"]]
    for _ in range(3):
        await sign_in(public, isp.administrator, PASSWORD, isp.slug)


async def test_many_guesses_at_once_are_no_way_around(public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    form = {"username": isp.administrator, "password": "wrong", "tenant": isp.slug}
    answers = await asyncio.gather(*(public.send("POST", f"{V1}/auth/token", form=form) for _ in range(4 * FREE)))
    statuses = [answer.status for answer in answers]
    # A slow machine may take a second or two, after each of which one more is free.
    assert FREE <= statuses.count(401) <= FREE + 3
    assert statuses.count(401) + statuses.count(429) == len(statuses)


async def test_old_attempts_are_forgotten(public: Api, database: "asyncpg.Connection[Any]") -> None:
    for _ in range(3):
        form = {"username": f"nobody@{uuid4().hex}.example", "password": "wrong"}
        (await public.send("POST", f"{V1}/auth/token", form=form)).problem(401)
    await database.execute("update sign_in_attempts set last_at = last_at - interval '2 days'")
    form = {"username": f"nobody@{uuid4().hex}.example", "password": "wrong"}
    for _ in range(1 + await database.fetchval("select count(*) from sign_in_attempts") // 10):
        (await public.send("POST", f"{V1}/auth/token", form=form)).problem(401)
    assert await database.fetchval("select count(*) from sign_in_attempts") == 1


async def test_tokens_are_kept_as_hashes(signed_in: SignIn, database: "asyncpg.Connection[Any]") -> None:
    session = await signed_in()
    kept = [row["token_hash"] for row in await database.fetch("select token_hash from refresh_token")]
    assert kept
    assert all(len(found) == 32 for found in kept)
    assert session.refresh_token.encode() not in b"".join(kept)
