"""Migrations are safe while the previous version runs: it works on today's schema, beside today's services."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deploy.roles import SERVICES
from deploy.stack.processes import Child, free_port
from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy, registration

V1 = "/api/v1"
ROOT = Path(__file__).parents[2]
LOCK = "requirements.lock"
CODE = ("chassis", "services", "contracts/dotmac_contracts", LOCK)


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def migrations(revision: str) -> set[str]:
    """Return the migrations of a revision, which are what a schema is made by."""
    listed = git("ls-tree", "-r", "--name-only", revision, "services").decode().split()
    return {path for path in listed if "/migrations/versions/" in path}


def previous_version() -> str:
    """Return the last revision on the main line whose schema was another one."""
    today = migrations("HEAD")
    for revision in git("rev-list", "--first-parent", "HEAD").decode().split():
        if migrations(revision) != today:
            return revision
    pytest.skip("the history that is here has no earlier schema")


def unpack(revision: str, folder: Path) -> None:
    archive = folder / "code.tar"
    git("archive", "--output", str(archive), revision, *CODE)
    shutil.unpack_archive(archive, folder)


def interpreter(folder: Path) -> str:
    """Return a Python with what the previous version depends on: this one, unless that was something else."""
    if (folder / LOCK).read_bytes() == (ROOT / LOCK).read_bytes():
        return sys.executable
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = str(environment / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(folder / LOCK)]
    subprocess.run(install, check=True)
    return python


@pytest.fixture(scope="module")
async def before(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """The previous version's services, in all roles, beside today's; their addresses by name."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the previous version is taken from the history, and there is no git repository")
    folder = tmp_path_factory.mktemp("previous")
    unpack(previous_version(), folder)
    python = await asyncio.to_thread(interpreter, folder)
    path = os.pathsep.join([str(folder), str(folder / "contracts")])
    children, urls = [], {}
    try:
        # A service may be new.
        for name in (name for name in SERVICES if (folder / "services" / name / "app.py").exists()):
            port = free_port()
            environment = {**stack._environment(name), "PORT": str(port), "PYTHONPATH": path}
            command = [python, "-m", f"services.{name}"]
            child = Child(f"previous {name}", command, environment, folder / f"{name}.log", folder=folder)
            await child.start()
            children.append(child)
            urls[name] = f"http://127.0.0.1:{port}"
        yield urls
    finally:
        await asyncio.gather(*(child.stop() for child in children))


async def test_the_previous_version_works_on_todays_schema(
    before: dict[str, str], stack: Stack, public: Api, platform: Api, tenant: Tenant
) -> None:
    def of(api: Api, service: str) -> Api:
        return Api(before[service], api.http, api.token, set(), {})

    said: dict[str, Any] = {}

    async def all_ready() -> bool:
        for service in before:
            try:
                said[service] = (await of(public, service).send("GET", "/health/ready")).body
            except OSError as error:
                said[service] = repr(error)
        return all(isinstance(answer, dict) and answer["status"] == "ready" for answer in said.values())

    try:
        await eventually(all_ready, 120)
    except AssertionError:
        pytest.fail(f"the previous version does not become ready: {said}")

    # What comes in by HTTP.
    registered = (await of(platform, "tenant").send("POST", f"{V1}/tenants", registration())).expect(201)
    (await of(platform, "tenant").send("GET", f"{V1}/tenants/{registered['id']}")).expect(200)
    (await of(platform, "provisioning").send("GET", f"{V1}/deployments")).expect(200)
    customers, billing = of(tenant.api, "customer"), of(tenant.api, "billing")
    created = await customers.send("POST", f"{V1}/customers", {"name": "Before"}, headers={"Idempotency-Key": "before"})
    customer: Any = created.expect(201)
    path = f"{V1}/customers/{customer['id']}"
    (await customers.send("PATCH", path, {"city": "Bonn"}, headers={"If-Match": '"1"'})).expect(200)
    (await customers.send("GET", f"{V1}/workspace")).expect(200)
    headers = {"Content-Type": "text/csv"}
    (await customers.send("POST", f"{V1}/customers/imports", raw=b"name\nBefore\n", headers=headers)).expect(202)
    price = {"amount_minor": 500, "currency": "USD"}
    (await billing.send("POST", f"{V1}/plans", {"code": "BEFORE", "name": "Before", "price": price})).expect(201)

    async def account() -> Any:
        params = {"customer_id": customer["id"]}
        return (await billing.send("GET", f"{V1}/billing-accounts", params=params)).expect(200)["items"] or None

    await eventually(account)
    order = {"customer_id": customer["id"], "plan_code": "BEFORE", "started_on": "2026-01-01"}
    (await billing.send("POST", f"{V1}/subscriptions", order)).expect(201)
    run = (await billing.send("POST", f"{V1}/billing-runs", {"period": "2026-05"})).expect(202)

    async def billed() -> bool:
        return bool((await billing.send("GET", f"{V1}/billing-runs/{run['id']}")).expect(200)["status"] == "completed")

    await eventually(billed)

    # What comes in by events: consumers of both versions share the partitions.
    for _ in range(6):
        assert (await deploy(public, platform)).deployment["status"] == "succeeded"
