"""Rate limits that several gateways share through a real Redis."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from deploy.stack.processes import free_port
from gateway.limits import LocalLimiter, Policy, Quota, SharedLimiter
from tests.gateway import PATH, gateway, ok, problem, saying, service

SERVER = shutil.which("redis-server")

pytestmark = pytest.mark.skipif(SERVER is None, reason="redis-server is not installed (Debian's package redis-server)")


@asynccontextmanager
async def redis_server(folder: Path, port: int) -> AsyncIterator[str]:
    """Run a Redis of its own; gives its URL once it answers, and ends it."""
    assert SERVER is not None
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    process = await asyncio.create_subprocess_exec(SERVER, *arguments, stdout=asyncio.subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(20), Redis.from_url(url) as client:
            while True:
                try:
                    await client.ping()
                    break
                except RedisError:
                    await asyncio.sleep(0.02)
        yield url
    finally:
        process.kill()
        await process.wait()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take Redis for away when it is, and not while this machine does something else."""
    monkeypatch.setattr("gateway.limits._REDIS_SECONDS", 10.0)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[str]:
    async with redis_server(tmp_path, free_port()) as url:
        yield url


async def test_gateways_share_what_a_principal_may_send(redis: str) -> None:
    async with service(saying(ok())) as upstream:
        settings = {"customer_url": upstream.url, "redis_url": redis, "rate_limit": "10/minute"}
        async with (
            gateway(**settings) as one,
            gateway(**settings) as two,
            one.client() as first,
            two.client() as second,
        ):

            async def ask(number: int) -> int:
                async with (first if number % 2 else second).get(PATH) as response:
                    assert '"principal";q=10;w=60' in response.headers["RateLimit-Policy"]
                    return response.status

            statuses = await asyncio.gather(*(ask(number) for number in range(30)))
            assert (statuses.count(200), statuses.count(429)) == (10, 20)
            for client in (first, second):
                async with client.get(PATH) as response:
                    await problem(response, 429, "rate-limited")
                    assert '"principal";r=0' in response.headers["RateLimit"]
                    assert 1 <= int(response.headers["Retry-After"]) <= 7
        assert len(upstream.asked) == 10
        async with Redis.from_url(redis) as client:
            # A key lives until its quota is whole again: those of the tenant and the address are gone already.
            (key,) = [key.decode() async for key in client.scan_iter("dotmac:rate:*")]
            assert key.startswith("dotmac:rate:principal:")
            assert 0 < await client.pttl(key) <= 60_000


async def test_what_redis_counts_is_what_a_process_counts(redis: str) -> None:
    narrow, wide = Policy("narrow", Quota(3, 3600.0)), Policy("wide", Quota(5, 3600.0))
    shared, local = SharedLimiter(redis), LocalLimiter()
    try:
        for key in ("a", "a", "b", "a", "a", "b", "b", "b", "c"):
            by_redis = await shared.take([narrow, wide], [key, "all"])
            here = await local.take([narrow, wide], [key, "all"])
            for policy, ours, theirs in zip((narrow, wide), here, by_redis, strict=True):
                assert policy.refuses(theirs) is policy.refuses(ours)
                assert policy.remaining(theirs) == policy.remaining(ours)
    finally:
        await shared.close()


async def test_while_redis_is_away_each_gateway_counts_alone(tmp_path: Path) -> None:
    port = free_port()
    async with service(saying(ok())) as upstream:
        settings = {
            "customer_url": upstream.url,
            "redis_url": f"redis://127.0.0.1:{port}",
            "rate_limit": "5/minute",
        }
        async with gateway(**settings) as running, running.client() as client:

            async def passed(count: int) -> int:
                statuses = []
                for _ in range(count):
                    async with client.get(PATH) as response:
                        statuses.append(response.status)
                assert set(statuses) <= {200, 429}
                return statuses.count(200)

            assert await passed(10) == 5  # not without a limit, and not without an answer
            async with redis_server(tmp_path, port):
                async with asyncio.timeout(20):
                    while not await passed(1):  # Redis knows nothing of those before
                        await asyncio.sleep(0.1)
                assert await passed(10) == 4
            assert await passed(10) == 0
