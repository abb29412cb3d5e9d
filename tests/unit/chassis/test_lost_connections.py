"""What asyncpg says when a connection is lost in the midst of its own steps is a loss like any other."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import pytest

from chassis.messaging import watch
from chassis.messaging.consumer import TRANSIENT
from chassis.messaging.relay import Relay
from chassis.persistence import listener
from chassis.settings import Settings
from tests.api import eventually

LOSS = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The connections that were tried, each of which is lost."""
    tried: list[str] = []

    async def connect(url: str, **_: Any) -> None:
        tried.append(url)
        raise LOSS

    monkeypatch.setattr(asyncpg, "connect", connect)
    monkeypatch.setattr(watch, "_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(listener, "_RETRY_SECONDS", 0.01)
    return tried


async def _listening() -> None:
    listening = listener.Listener("", "feed", application_name="test")
    listening.start()
    assert listening._task
    await listening._task


RUNS: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    "relay": lambda: Relay(Settings(), "customer").run(),
    "outbox-watch": lambda: watch.outbox("", "customer"),
    "listener": _listening,
}


@pytest.mark.parametrize("which", RUNS)
async def test_who_lost_it_connects_again(attempts: list[str], which: str) -> None:
    task = asyncio.create_task(RUNS[which]())

    async def again() -> bool:
        return task.done() or len(attempts) > 1

    await eventually(again)
    assert not task.done(), task.exception()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_no_event_becomes_a_dead_letter_by_it() -> None:
    assert isinstance(LOSS, TRANSIENT)
