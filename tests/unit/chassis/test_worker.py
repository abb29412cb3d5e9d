"""When a worker looks for work."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chassis.worker import Worker


@pytest.fixture
async def looks() -> AsyncIterator[tuple[list[Worker], asyncio.Queue[str]]]:
    workers: list[Worker] = []
    yield workers, asyncio.Queue()
    for worker in workers:
        await worker.stop()


def begun(looks: tuple[list[Worker], asyncio.Queue[str]], name: str, *, at_start: bool) -> Worker:
    workers, looked = looks

    async def look() -> bool:
        looked.put_nowait(name)
        return False

    worker = Worker(name, look, poll_seconds=3600, at_start=at_start)
    workers.append(worker)
    worker.start()
    return worker


async def test_it_looks_at_once_unless_it_is_to_wait_and_then_when_it_is_woken(
    looks: tuple[list[Worker], asyncio.Queue[str]],
) -> None:
    patient = begun(looks, "patient", at_start=False)
    begun(looks, "eager", at_start=True)
    _, looked = looks
    assert await asyncio.wait_for(looked.get(), 5) == "eager"
    assert looked.empty(), "the other one began before it"
    patient.wake()
    assert await asyncio.wait_for(looked.get(), 5) == "patient"
