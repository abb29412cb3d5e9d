"""When a worker looks for work."""

import asyncio

from chassis.worker import Worker


async def test_it_looks_at_once_and_then_when_it_is_woken() -> None:
    looked: asyncio.Queue[str] = asyncio.Queue()

    async def look() -> bool:
        looked.put_nowait("looked")
        return False

    worker = Worker("eager", look, poll_seconds=3600)
    worker.start()
    try:
        assert await asyncio.wait_for(looked.get(), 5) == "looked"
        assert looked.empty()
        worker.wake()
        assert await asyncio.wait_for(looked.get(), 5) == "looked"
    finally:
        await worker.stop()
