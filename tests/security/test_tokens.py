"""Tokens that must not be believed, each tried at the gateway and at every service; and the rotation of their key."""

import asyncio
import secrets
from collections import Counter
from dataclasses import replace
from uuid import UUID

import pytest

from chassis.security.scopes import TENANT_ADMINISTRATOR, scopes_of
from chassis.security.tokens import TokenIssuer
from deploy.stack.stack import Stack
from tests.api import Answer, Api, eventually
from tests.conftest import PASSWORD, Tenant, deploy
from tests.integration.test_revocations import READ, believed, ended
from tests.security.test_api02_broken_authentication import FORGERIES, Forger

V1 = "/api/v1"
NAMED = (
    "no algorithm",
    "HS256 with the public key as PEM",
    "RS256",
    "another key",
    "expired",
    "not yet valid",
    "for somebody else",
    "from somebody else",
)


async def signed_in(public: Api, isp: Tenant) -> tuple[Api, str]:
    form = {"username": isp.administrator, "password": PASSWORD, "tenant": isp.slug}
    answer = (await public.send("POST", f"{V1}/auth/token", form=form)).expect(200)
    return public.as_(answer["access_token"]), answer["refresh_token"]


async def refreshed(public: Api, token: str, where: str | None = None) -> Answer:
    api = replace(public, url=where or public.url)
    return await api.send("POST", f"{V1}/auth/token", form={"grant_type": "refresh_token", "refresh_token": token})


@pytest.mark.parametrize("name", NAMED)
async def test_a_token_that_is_not_ours_or_not_of_now_is_refused_everywhere(
    stack: Stack, public: Api, isp: Tenant, name: str
) -> None:
    api, _ = await signed_in(public, isp)
    assert await believed(stack, api) == set(READ)  # what the forgery is made of is good
    forger = Forger(stack, replace(isp, api=api), (await public.send("GET", "/.well-known/jwks.json")).expect(200))
    assert await believed(stack, api.as_(FORGERIES[name](forger))) == set()


async def test_a_refresh_token_that_is_replayed_is_refused_at_the_gateway_and_at_the_service(
    stack: Stack, public: Api, isp: Tenant
) -> None:
    for where in (None, stack.url("tenant")):
        api, token = await signed_in(public, isp)
        following = (await refreshed(public, token)).expect(200)
        (await refreshed(public, token, where)).problem(401, "invalid-refresh-token")
        (await refreshed(public, following["refresh_token"], where)).problem(401, "invalid-refresh-token")
        await ended(stack, api)
        await ended(stack, public.as_(following["access_token"]))


async def test_the_tokens_of_a_session_that_was_revoked_are_refused_everywhere(
    stack: Stack, public: Api, isp: Tenant
) -> None:
    api, token = await signed_in(public, isp)
    other, _ = await signed_in(public, isp)
    items = (await api.send("GET", f"{V1}/sessions")).expect(200)["items"]
    (identity,) = [item["id"] for item in items if item["current"]]
    (await other.send("DELETE", f"{V1}/sessions/{identity}")).expect(204)
    await ended(stack, api)
    for where in (None, stack.url("tenant")):
        (await refreshed(public, token, where)).problem(401, "invalid-refresh-token")
    assert await believed(stack, other) == set(READ)


class Work:
    """Clients that go on while the key is changed: they read with old and new tokens, refresh and sign in."""

    def __init__(self, stack: Stack, public: Api, isp: Tenant) -> None:
        self._stack, self._public, self._isp = stack, public, isp
        self._stopping = False
        self.answered: Counter[str] = Counter()
        self.lost: list[str] = []

    async def run(self) -> None:
        first, token = await signed_in(self._public, self._isp)
        while not self._stopping:
            answer = await refreshed(self._public, token)
            if answer.status != 200:
                self.lost.append(f"refresh: {answer}")
                return
            token = answer.body["refresh_token"]
            for kind, api in (("first", first), ("present", self._public.as_(answer.body["access_token"]))):
                # One read each of the gateway, and of services that verify by themselves.
                for place, path in READ.items():
                    # Those that are replaced are reached by the gateway, which knows both of their addresses.
                    url = self._stack.url("gateway" if place in ("tenant", "provisioning") else place)
                    found = await replace(api, url=url).send("GET", V1 + path)
                    if found.status == 200:
                        self.answered[kind] += 1
                    else:
                        self.lost.append(f"{kind} at {place}: {found}")

    def stop(self) -> None:
        self._stopping = True


async def keys_of(public: Api) -> list[str]:
    return [key["kid"] for key in (await public.send("GET", "/.well-known/jwks.json")).expect(200)["keys"]]


async def test_the_signing_key_is_changed_under_load_and_the_former_one_ends(
    stack: Stack, public: Api, platform: Api
) -> None:
    isp = await deploy(public, platform)
    old, new = stack.jwt_secret_key, secrets.token_urlsafe(36)
    old_key, new_key = (TokenIssuer(secret).jwks()["keys"][0]["kid"] for secret in (old, new))
    work = Work(stack, public, isp)

    async def now(*names: str) -> None:
        """Have the tenant service go by these secrets, and see that the work goes on."""
        stack.environment["JWT_SECRET_KEY"] = ",".join(names)
        await stack.replace_service("tenant")
        before = Counter(work.answered)

        async def goes_on() -> bool:
            assert work.lost == []
            return all(work.answered[kind] > before[kind] + 40 for kind in ("first", "present"))

        await eventually(goes_on)

    clients = [asyncio.create_task(work.run()) for _ in range(4)]
    try:
        assert await keys_of(public) == [old_key]
        await now(old, new)
        assert await keys_of(public) == [old_key, new_key]
        # The ten seconds of the procedure: who has just fetched the keys, for a forged token say, does not do it again.
        early = public.as_(TokenIssuer(new).issue("somebody", UUID(isp.id), scopes_of([TENANT_ADMINISTRATOR])))

        async def known_everywhere() -> bool:
            return await believed(stack, early) == set(READ)

        await eventually(known_everywhere)
        before, _ = await signed_in(public, isp)
        await now(new, old)
        assert await keys_of(public) == [new_key, old_key]
        after, _ = await signed_in(public, isp)
        for api in (before, after):  # each is good until it ends by itself
            assert await believed(stack, api) == set(READ)
        # Provisioning signs as well, to try what it deployed.
        await stack.replace_service("provisioning")
        assert (await deploy(public, platform)).deployment["status"] == "succeeded"
        # And back again, which is another change of the key: the other tests' tokens are of the first one.
        await now(old, new)
        await now(old)
        await stack.replace_service("provisioning")
    finally:
        work.stop()
        await asyncio.gather(*clients, return_exceptions=True)
        stack.environment.pop("JWT_SECRET_KEY", None)
    assert work.lost == []
    assert await keys_of(public) == [old_key]
    stolen = public.as_(TokenIssuer(new).issue("somebody", UUID(isp.id), ["customers:read", "deployments:read"]))
    # Who has not heard of it within five minutes, which tests/unit/chassis/test_signing_keys.py waits for, hears now.
    for name in ("gateway", "customer"):
        await stack.children[name].stop()
        await stack.start_service(name)
        (await replace(stolen, url=stack.url(name)).send("GET", f"{V1}/customers")).problem(401, "invalid-token")
    assert await believed(stack, before) == set(READ)
