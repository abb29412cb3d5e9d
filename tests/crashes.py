"""Provisioning in tests, with points at which it kills itself when it is told to."""

import asyncio
import contextlib
import json
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from deploy.stack.processes import Child
from deploy.stack.stack import Stack
from tests.api import eventually

ROOT = Path(__file__).parents[1]
# Where no tenant has processes of its own, nothing is made ready for them at each of many starts.
SHARED_ONLY = {"DEPLOYMENT_SERVER_URL": ""}
# It dies in every test, and each would wait until its former consumer is given up; a broker of others may forbid less.
SOON_DEAD = {"KAFKA_SESSION_SECONDS": "2"}


@contextlib.asynccontextmanager
async def mortal(stack: Stack, file: Path, **environment: str) -> AsyncIterator[None]:
    """Have provisioning kill itself where this file says so, until the context is left; `crashed` starts it again.

    environment: settings of its own meanwhile.
    """
    await stack.children.pop("provisioning").stop()
    environment = {**stack._environment("provisioning"), "CRASH_FILE": str(file), **environment}
    if stack._broker:
        environment |= SOON_DEAD
    child = stack.children["provisioning"] = Child(
        "provisioning",
        [sys.executable, "-m", "tests.chaos.instrumented", "provisioning"],
        environment,
        file.with_suffix(".log"),
        death_signal=signal.SIGKILL,
        folder=ROOT,
        forks=stack.forks,
    )
    await child.start()
    await stack.wait_ready("provisioning")
    try:
        yield
    finally:
        await stack.children.pop("provisioning").stop()
        await stack.start_service("provisioning")


def arm(file: Path, point: str, passage: int, since: tuple[str, int] | None = None) -> None:
    """Have it end at this passage of this point, counted once an event was told so often."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"point": point, "passage": passage, "since": since, "mark": secrets.token_hex(4)}))
    part.replace(file)


async def crashed_at_each(stack: Stack, file: Path, points: Sequence[tuple[str, int]]) -> None:
    """Have it end where it is armed to, and once more at each of these points, each time as soon as it is back."""
    for point, passage in points:
        await _dead(stack, file)
        arm(file, point, passage)
        await stack.children["provisioning"].start()
    await crashed(stack, file)


async def crashed(stack: Stack, file: Path) -> None:
    """Return once it has ended there, and was started again: at once, whereas a stack waits longer each time."""
    await _dead(stack, file)
    await stack.children["provisioning"].start()
    await stack.wait_ready("provisioning")


async def _dead(stack: Stack, file: Path) -> None:
    child = stack.children["provisioning"]

    async def dead() -> bool:
        return child.status == -signal.SIGKILL

    try:
        await eventually(dead)
    except AssertionError:
        raise AssertionError("it did not come by where it is to end") from None
    finally:
        await asyncio.to_thread(file.unlink, missing_ok=True)  # where it was not passed, it is none of the next test's
