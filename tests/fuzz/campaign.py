"""Runs Schemathesis over the whole aggregated document, as two tenants and as the platform."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from cli.client import API
from deploy.stack.stack import Say, Stack, temporary
from tests.api import Api
from tests.conftest import PASSWORD, deploy, sign_in

_ROOT = Path(__file__).parents[2]
_CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@dataclass(frozen=True)
class Identity:
    """Who signs in, and where: no tenant for the platform."""

    name: str
    username: str
    password: str
    tenant: str | None = None

    def entry(self) -> dict[str, Any]:
        """Return it as a Web Fuzzing Commons document has it."""
        form = {"username": self.username, "password": self.password}
        return {
            "name": self.name,
            "loginEndpointAuth": {
                "endpoint": f"{API}/auth/token",
                "verb": "POST",
                "contentType": "application/x-www-form-urlencoded",
                "payloadRaw": urlencode({**form, **({"tenant": self.tenant} if self.tenant else {})}),
                "token": {
                    "extractFrom": "body",
                    "extractSelector": "/access_token",
                    "sendIn": "header",
                    "sendName": "Authorization",
                    "sendTemplate": "Bearer {token}",
                },
            },
        }


@dataclass(frozen=True)
class Findings:
    """What a run found; `report` is what Schemathesis printed."""

    clean: bool
    requests: int
    report: str


@asynccontextmanager
async def fuzzed(say: Say) -> AsyncIterator[Stack]:
    """Run a stack that nobody else uses: requests that are made up also suspend tenants, and have them leave.

    None gets processes of its own: they would be as many as chance has it.
    """
    make = partial(Stack, any_ports=True, say=say, environment={"DEPLOYMENT_SERVER_URL": ""})
    async with temporary("fuzz", make) as stack:
        yield stack


async def campaign(stack: Stack, *options: str) -> Findings:
    """Run once, in a process of its own and with tenants of its own; `options` are those of `schemathesis run`."""
    users = stack.folder / "identities.json"
    users.touch(mode=0o600)
    users.write_text(json.dumps({"auth": [identity.entry() for identity in await _identities(stack)]}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIGURATION)),
        *("run", f"{stack.gateway_url}/openapi.json", "--no-color", "--generation-database", "none", *options),
        # An answer that goes on has no end that could be waited for; tests/integration/test_feed.py asks for it.
        *("--exclude-path", f"{API}/events", "--exclude-path", f"{API}/deployments/{{deployment_id}}/events"),
        cwd=_ROOT,
        env={**os.environ, "FUZZ_IDENTITIES": str(users)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    report = output.decode(errors="replace")
    counted = re.search(r"(\d+) generated", report)
    return Findings(process.returncode == 0, int(counted[1]) if counted else 0, report)


async def _identities(stack: Stack) -> list[Identity]:
    """Return the administrators of two tenants that have just been deployed, and the platform's."""
    async with aiohttp.ClientSession() as session:
        public = Api(stack.gateway_url, session, None, set(), {})
        platform = public.as_(await sign_in(public, *stack.administrator))
        first, second = await deploy(public, platform), await deploy(public, platform)
    return [
        Identity("first tenant", first.administrator, PASSWORD, first.slug),
        Identity("second tenant", second.administrator, PASSWORD, second.slug),
        Identity("platform", *stack.administrator),
    ]
