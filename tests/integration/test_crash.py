"""Services that are killed at work go on where they stopped, and a broken module stops the start."""

import asyncio
import json
import os
import random
import shutil
import sys
from pathlib import Path

import asyncpg

from deploy.stack.stack import SERVICES, Stack
from tests.api import Api, eventually
from tests.conftest import deploy
from tests.integration.test_flow import V1

ROWS = 4000


async def test_sigkill_during_import_and_billing_changes_no_figure(stack: Stack, public: Api, platform: Api) -> None:
    tenant = await deploy(public, platform)
    lines = "".join(json.dumps({"external_reference": f"k-{n}", "name": f"Name {n}"}) + "\n" for n in range(ROWS))
    headers = {"Content-Type": "application/x-ndjson"}
    job = await tenant.api.send("POST", f"{V1}/customers/imports", raw=lines.encode(), headers=headers)
    job.expect(202)
    chance = random.Random(4)
    for service in ("customer", "billing"):
        await asyncio.sleep(chance.random() / 2)  # at some moment of the work
        stack.children[service].kill()
    for service in ("customer", "billing"):
        await stack.wait_ready(service)

    async def imported() -> bool:
        answer = await tenant.api.send("GET", f"{V1}/customers/imports/{job.body['id']}")
        return answer.status == 200 and answer.body["status"] == "completed"

    await eventually(imported)
    assert (await tenant.api.send("GET", f"{V1}/customers/summary")).expect(200)["total"] == ROWS

    async def opened() -> bool:
        answer = await tenant.api.send("GET", f"{V1}/billing-accounts/summary")
        return answer.status == 200 and answer.body["count"] == ROWS

    await eventually(opened)
    for start in range(0, ROWS, 1000):
        items = [
            {"customer_external_reference": f"k-{n}", "plan_code": "DSL", "started_on": "2026-01-01"}
            for n in range(start, start + 1000)
        ]
        assert (await tenant.api.send("POST", f"{V1}/subscriptions/bulk", {"items": items})).expect(200)["created"]
    run = (await tenant.api.send("POST", f"{V1}/billing-runs", {"period": "2026-02"})).expect(202)
    await asyncio.sleep(chance.random() / 5)
    stack.children["billing"].kill()
    await stack.wait_ready("billing")

    async def billed() -> bool:
        answer = await tenant.api.send("GET", f"{V1}/billing-runs/{run['id']}")
        return answer.status == 200 and answer.body["status"] == "completed"

    await eventually(billed)
    summary = (await tenant.api.send("GET", f"{V1}/invoices/summary", params={"period": "2026-02"})).expect(200)
    assert summary == {"count": ROWS, "total": {"amount_minor": ROWS * 4000, "currency": "USD"}}
    billing = await asyncpg.connect(stack.database_url("billing", "consumer"))
    relay = await asyncpg.connect(stack.database_url("billing", "relay"))
    try:
        await billing.execute(f"set app.tenant_ids = '{tenant.id}'")
        numbers = [row[0] for row in await billing.fetch("select number from invoice order by number")]
        assert numbers == [f"INV-{n:06d}" for n in range(1, ROWS + 1)]
        assert await billing.fetchval("select sum(amount_minor) from ledger_entry") == 0

        async def told() -> bool:
            return (
                await relay.fetchval(
                    "select count(distinct key) from journal where topic = 'billing.invoice.v1' and tenant_id = $1",
                    tenant.id,
                )
                == ROWS
            )

        await eventually(told)
    finally:
        await billing.close()
        await relay.close()


async def test_provisioning_killed_during_a_deployment_finishes_it(stack: Stack, public: Api, platform: Api) -> None:
    deploying = asyncio.create_task(deploy(public, platform))
    stack.children["provisioning"].kill()
    try:
        tenant = await deploying
        assert tenant.deployment["status"] == "succeeded"
    except AssertionError:  # the gateway said 502 while it was away: the deployment itself must still end
        await stack.wait_ready("provisioning")

        async def none_runs() -> bool:
            answer = await platform.send("GET", f"{V1}/deployments", params={"status": "running"})
            return answer.status == 200 and answer.body["items"] == []

        await eventually(none_runs)
    await stack.wait_ready("provisioning")
    failed = (await platform.send("GET", f"{V1}/deployments", params={"status": "failed"})).expect(200)
    assert failed["items"] == []


async def test_a_service_with_a_broken_module_does_not_start_and_says_which(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for service in SERVICES:
        copy = tmp_path / service
        for package in ("chassis", "services"):
            shutil.copytree(root / package, copy / package)
        shutil.copytree(root / "contracts" / "dotmac_contracts", copy / "dotmac_contracts")
        broken = next((copy / "services" / service / "consumers").glob("[a-z]*.py"))
        broken.write_text("def broken(:\n")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"services.{service}",
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert str(broken) in errors.decode()
        assert "SyntaxError" in errors.decode()
