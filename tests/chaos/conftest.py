"""A platform of its own for the chaos suite, because its servers are stopped, cut off and emptied."""

import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from deploy.stack.kafka import Unavailable
from deploy.stack.processes import Say
from tests.chaos.load import Load
from tests.chaos.platform import Platform, running


@pytest.fixture(scope="package")
def say(request: pytest.FixtureRequest) -> Say:
    """Tells whoever watches the run, whatever pytest captures."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    started = time.monotonic()

    def line(message: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"{time.monotonic() - started:6.1f} s  {message}", flush=True)  # noqa: T201

    return line


@pytest.fixture(scope="package")
async def platform(say: Say, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    try:
        async with running(tmp_path_factory.mktemp("chaos"), say) as started:
            yield started
    except Unavailable as reason:
        pytest.skip(f"chaos needs Apache Kafka, and {reason}: install Java and Maven")


@pytest.fixture(scope="package")
async def load(platform: Platform) -> AsyncIterator[Load]:
    async with aiohttp.ClientSession() as http:
        yield await platform.load(http, isps=3)
