"""A worker does the work that waits in a table, step by step, and takes it up again after a crash."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Gauge, Histogram

from chassis.telemetry import busy

log = structlog.get_logger()

STEP_SECONDS = Histogram(
    "dotmac_worker_step_seconds",
    "Time of a worker's step that found work, or failed.",
    ["worker", "outcome"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
STEP_STARTED = Gauge(
    "dotmac_worker_step_started_timestamp_seconds", "When the step under way began; 0 while there is none.", ["worker"]
)

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
        STEP_SECONDS.labels(name, "failed")  # known beforehand, so that the first failure is an increase

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
                while await self._observed_step():
                    backoff = _FIRST_BACKOFF_SECONDS
            except Exception as error:
                log.exception("worker_failed", worker=self.name, error=repr(error), retry_in_seconds=backoff)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._wanted.wait()

    async def _observed_step(self) -> bool:
        started, worked, outcome = time.perf_counter(), False, "failed"
        STEP_STARTED.labels(self.name).set_to_current_time()
        try:
            with busy.WORKER:
                worked = await self._step()
            outcome = "worked"
        finally:
            STEP_STARTED.labels(self.name).set(0)
            if worked or outcome == "failed":  # a look that found nothing to do is no step
                STEP_SECONDS.labels(self.name, outcome).observe(time.perf_counter() - started)
        return worked
