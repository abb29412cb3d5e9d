"""A worker does the work that waits in a table, step by step, and takes it up again after a crash."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()

_FIRST_BACKOFF_SECONDS = 0.2
_LONGEST_BACKOFF_SECONDS = 10.0


class Worker:
    """Calls `step` while it returns True (there was work), then waits for `wake()` or the poll."""

    def __init__(self, name: str, step: Callable[[], Awaitable[bool]], *, poll_seconds: float = 1.0) -> None:
        self.name = name
        self._step = step
        self._poll_seconds = poll_seconds
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the step decides what there is to do."""
        self._task = asyncio.create_task(self._run(), name=f"worker-{self.name}")

    async def stop(self) -> None:
        """Cancel; an open transaction is rolled back."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def wake(self) -> None:
        """There is work: don't wait for the poll."""
        self._wanted.set()

    @property
    def healthy(self) -> bool:
        """Whether it still runs."""
        return self._task is not None and not self._task.done()

    async def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            self._wanted.clear()
            try:
                while await self._step():
                    backoff = _FIRST_BACKOFF_SECONDS
            except Exception as error:
                log.exception("worker_failed", worker=self.name, error=repr(error), retry_in_seconds=backoff)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._wanted.wait()
