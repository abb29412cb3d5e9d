"""A service's roles apart, each with what it needs and nothing more; and a release that waits for its schema."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from chassis.persistence.migrations import upgrade
from deploy.stack.processes import Child, free_port
from deploy.stack.stack import Stack
from tests.api import eventually

NOBODY = f"127.0.0.1:{free_port()}"


@contextlib.asynccontextmanager
async def process(stack: Stack, folder: Path, roles: str, **given: str) -> AsyncIterator[str]:
    """Run the tenant service in some of its roles, with these settings alone."""
    port = free_port()
    settings = {"ROLES": roles, "HOST": "127.0.0.1", "PORT": str(port), "JWKS_URL": f"http://{NOBODY}/", **given}
    environment = {"PATH": os.environ["PATH"], **settings}
    child = Child("tenant", [sys.executable, "-m", "services.tenant"], environment, folder / "tenant.log")
    await child.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await child.stop()


async def ready(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async def answered() -> dict[str, Any] | None:
        try:
            async with http.get(f"{url}/health/ready") as answer:
                body: dict[str, Any] = await answer.json()
                return body if answer.status == 200 else None
        except aiohttp.ClientError:
            return None

    return await eventually(answered)


async def test_an_api_needs_neither_the_broker_nor_another_role_of_its_database(
    stack: Stack, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    # It waits a while for what is revoked, and then goes on as far as it knows.
    settings = {"DATABASE_URL": stack.database_url("tenant", "api"), "KAFKA_BOOTSTRAP_SERVERS": NOBODY}
    async with process(stack, tmp_path, "api", **settings) as url:
        assert (await ready(http, url))["checks"] == {"database as api": "ok"}
        async with http.get(f"{url}/.well-known/jwks.json") as answer:
            assert answer.status == 200


async def test_a_worker_needs_no_api_role_and_answers_health_alone(
    stack: Stack, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    settings = {
        "CONSUMER_DATABASE_URL": stack.database_url("tenant", "consumer"),
        "RELAY_DATABASE_URL": stack.database_url("tenant", "relay"),
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
    }
    async with process(stack, tmp_path, "consumer,relay", **settings) as url:
        checks = (await ready(http, url))["checks"]
        assert set(checks) == {"database as consumer", "broker", "consumer", "relay"}
        async with http.get(f"{url}/.well-known/jwks.json") as answer:
            assert answer.status == 404


async def test_a_release_waits_until_its_migrations_have_run(stack: Stack) -> None:
    server = await asyncpg.connect(stack._server_url)
    owner, api = (stack.database_url("tenant", role) + "__wait" for role in ("owner", "api"))
    command = [sys.executable, "-m", "chassis.persistence.migrations", "--wait", "tenant"]

    async def waiting() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command, env={**os.environ, "DATABASE_URL": api}, stderr=asyncio.subprocess.PIPE
        )

    process = await waiting()
    try:
        assert process.stderr is not None
        assert b"does not answer yet" in await process.stderr.readline()
        await server.execute("create database dotmac_tenant__wait owner tenant_owner")
        assert b"does not answer yet" in await process.stderr.readline()  # it has no version yet
        assert process.returncode is None
        await upgrade("tenant", owner)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        # A rollback: the schema is that of a later release, which this code does not know.
        later = await asyncpg.connect(owner)
        await later.execute("update alembic_version set version_num = '9999'")
        await later.close()
        process = await waiting()
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await server.execute("drop database if exists dotmac_tenant__wait with (force)")
        await server.close()
