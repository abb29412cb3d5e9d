"""Signing keys overlap: a token is believed as long as its key is published, and by nobody after that."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from chassis.ids import PLATFORM_TENANT
from chassis.security import tokens
from chassis.security.tokens import InvalidToken, TokenIssuer, TokenVerifier
from chassis.settings import Settings
from tests.api import eventually

OLD, NEW = "the old secret of more than 32 characters", "the new secret of more than 32 characters"


def token_of(issuer: TokenIssuer) -> str:
    return issuer.issue("somebody", PLATFORM_TENANT, ["customers:read"])


class Published:
    """A place where keys are published."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.fetches = 0
        self.url = ""

    async def answer(self, _request: web.Request) -> web.Response:
        self.fetches += 1
        return web.json_response(self.keys)


@pytest.fixture
async def published() -> AsyncIterator[Published]:
    place = Published()
    app = web.Application()
    app.router.add_get("/keys", place.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    place.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    try:
        yield place
    finally:
        await runner.cleanup()


def test_the_first_one_signs_and_all_are_published() -> None:
    old, both, new = TokenIssuer(OLD), TokenIssuer(NEW, OLD), TokenIssuer(NEW)
    assert both.jwks()["keys"] == [*new.jwks()["keys"], *old.jwks()["keys"]]
    assert not any("d" in key for key in both.jwks()["keys"])


async def test_tokens_of_both_keys_are_good_while_both_are_published() -> None:
    verifier = TokenVerifier(TokenIssuer(NEW, OLD).jwks())
    for secret in (OLD, NEW):
        assert (await verifier.verify(token_of(TokenIssuer(secret)))).subject == "somebody"
    with pytest.raises(InvalidToken):
        await verifier.verify(token_of(TokenIssuer("a third secret of more than 32 characters")))


async def test_a_key_that_comes_is_fetched_when_it_is_met(published: Published) -> None:
    published.keys = TokenIssuer(OLD, NEW).jwks()
    verifier = TokenVerifier(published.url)
    await verifier.verify(token_of(TokenIssuer(OLD)))
    await verifier.verify(token_of(TokenIssuer(NEW, OLD)))
    assert published.fetches == 1  # it was known before it signed


async def test_a_key_that_is_taken_back_ends_what_it_signed(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_REFRESH_SECONDS", 0.2)
    monkeypatch.setattr(tokens, "_REFETCH_SECONDS", 0.1)
    published.keys = TokenIssuer(NEW, OLD).jwks()
    verifier = TokenVerifier(published.url)
    stolen = token_of(TokenIssuer(OLD))
    await verifier.verify(stolen)
    assert verifier.recall(stolen.encode()) is not None
    before = verifier.revocations.version
    published.keys = TokenIssuer(NEW).jwks()

    async def forgotten() -> bool:
        await verifier.verify(token_of(TokenIssuer(NEW)))  # others' requests go on meanwhile
        return verifier.recall(stolen.encode()) is None

    await eventually(forgotten)
    assert verifier.revocations.version > before
    with pytest.raises(InvalidToken):
        await verifier.verify(stolen)


async def test_requests_do_not_wait_for_the_refresh(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    published.keys = TokenIssuer(OLD).jwks()
    verifier = TokenVerifier(published.url)
    await verifier.verify(token_of(TokenIssuer(OLD)))
    monkeypatch.setattr(tokens, "_REFRESH_SECONDS", 0.0)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_url: str) -> Any:
        asked.set()
        await go_on.wait()
        raise tokens.SigningKeysUnavailable("away")

    monkeypatch.setattr(verifier, "_published", slow)
    monkeypatch.setattr(tokens, "_REFETCH_SECONDS", 0.0)
    started = time.monotonic()
    await verifier.verify(token_of(TokenIssuer(OLD)))
    await asked.wait()
    await verifier.verify(token_of(TokenIssuer(OLD)))
    assert time.monotonic() - started < 5
    go_on.set()
    assert verifier._refreshing is not None
    await verifier._refreshing  # those that are known have to do


def test_the_setting_names_several_and_each_is_long_enough() -> None:
    assert Settings(jwt_secret_key=f"{NEW}, {OLD}").signing_secrets == [NEW, OLD]
    for wrong in (f"{NEW},short", f"{NEW},", f",{NEW}"):
        with pytest.raises(ValidationError, match="JWT_SECRET_KEY needs at least 32 characters"):
            Settings(jwt_secret_key=wrong)
