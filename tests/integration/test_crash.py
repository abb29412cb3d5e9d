"""Services that are killed at work go on where they stopped, and a broken module stops the start."""

import asyncio
import os
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from cli.generator import generate
from cli.mapping import Subscriber, read_mapping, read_subscribers
from deploy.roles import SERVICES
from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.conftest import deploy, registration
from tests.integration.test_flow import V1
from tests.subscribers import MAPPING, PUBLISHED

MONTH = "2026-02"


def subscribers(folder: Path) -> list[Subscriber]:
    """The published file's, or as many made up where it is missing."""
    file = PUBLISHED
    if not file.exists():
        file = folder / "subscribers.csv"
        generate(file, 5000)
    return list(read_subscribers(file, read_mapping(MAPPING), "USD"))


async def killed(stack: Stack, names: Sequence[str], chance: random.Random) -> None:
    """End processes with SIGKILL, one after the other at some moment, and wait until all are back."""
    for name in names:
        await asyncio.sleep(chance.random() / 4)
        stack.children[name].kill()
    for name in names:
        await stack.wait_ready(name)


async def completed(api: Api, path: str) -> Any:
    async def ended() -> Any:
        answer = await api.send("GET", path)
        return answer.body if answer.status == 200 and answer.body["status"] == "completed" else None

    return await eventually(ended, seconds=120)


async def test_sigkill_during_import_and_billing_changes_no_figure(
    stack: Stack, public: Api, platform: Api, tmp_path: Path
) -> None:
    rows = subscribers(tmp_path)
    prices = [row.price for row in rows if row.price]
    expected = {
        "count": len(prices),
        "total": {"amount_minor": sum(price.amount_minor for price in prices), "currency": "USD"},
    }
    tenant = await deploy(public, platform)
    api, chance = tenant.api, random.Random(4)
    everything = [*SERVICES, "gateway"]
    chance.shuffle(everything)
    lines = b"".join(orjson.dumps(row.customer) + b"\n" for row in rows)
    headers = {"Content-Type": "application/x-ndjson"}
    job = (await api.send("POST", f"{V1}/customers/imports", raw=lines, headers=headers)).expect(202)
    await killed(stack, everything, chance)
    imported = await completed(api, f"{V1}/customers/imports/{job['id']}")
    assert (imported["created"], imported["rejected"]) == (len(rows), 0)

    async def opened() -> bool:
        answer = await api.send("GET", f"{V1}/billing-accounts/summary")
        return bool(answer.status == 200 and answer.body["count"] == len(rows))

    await eventually(opened, seconds=120)
    orders = [{**order, "started_on": "2026-01-01"} for row in rows if (order := row.subscription())]
    for start in range(0, len(orders), 1000):
        items = orders[start : start + 1000]
        answer = (await api.send("POST", f"{V1}/subscriptions/bulk", {"items": items})).expect(200)
        assert (answer["created"], answer["rejected"]) == (len(items), [])
    run = (await api.send("POST", f"{V1}/billing-runs", {"period": MONTH})).expect(202)
    chance.shuffle(everything)
    await killed(stack, everything, chance)
    billed = await completed(api, f"{V1}/billing-runs/{run['id']}")
    assert (billed["invoices"], billed["total"]) == (expected["count"], expected["total"])

    # Once more, undisturbed: nothing is left to do.
    job = (await api.send("POST", f"{V1}/customers/imports", raw=lines, headers=headers)).expect(202)
    assert (await completed(api, f"{V1}/customers/imports/{job['id']}"))["unchanged"] == len(rows)
    run = (await api.send("POST", f"{V1}/billing-runs", {"period": MONTH})).expect(202)
    assert (await completed(api, f"{V1}/billing-runs/{run['id']}"))["invoices"] == 0
    assert (await api.send("GET", f"{V1}/customers/summary")).expect(200)["total"] == len(rows)
    assert (await api.send("GET", f"{V1}/invoices/summary", params={"period": MONTH})).expect(200) == expected

    billing = await asyncpg.connect(stack.database_url("billing", "consumer"))
    relay = await asyncpg.connect(stack.database_url("billing", "relay"))
    try:
        await billing.execute(f"set app.tenant_ids = '{tenant.id}'")
        numbers = [row[0] for row in await billing.fetch("select number from invoice order by number")]
        assert numbers == [f"INV-{n:06d}" for n in range(1, len(prices) + 1)]
        assert await billing.fetchval("select sum(amount_minor) from ledger_entry") == 0

        async def told() -> bool:
            published = await relay.fetchval(
                "select count(distinct key) from journal where topic = 'billing.invoice.v1' and tenant_id = $1",
                UUID(tenant.id),
            )
            return bool(published == len(prices))

        await eventually(told)
    finally:
        await billing.close()
        await relay.close()


async def test_a_deployment_that_fails_undoes_what_it_began_and_can_be_asked_for_again(
    stack: Stack, public: Api, platform: Api
) -> None:
    await stack.children["billing"].stop()
    tenant = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)
    path = f"{V1}/tenants/{tenant['id']}"
    order = (await platform.send("POST", f"{path}/deployments")).expect(202)

    async def deployment() -> Any:
        return (await platform.send("GET", f"{V1}/deployments/{order['deployment_id']}")).expect(200)

    async def at(status: str) -> Any:
        found = await deployment()
        return found if found["status"] == status else None

    async def half_prepared() -> bool:
        step = (await deployment())["steps"][1]
        return step["status"] == "running" and await connection.fetchval(
            "select steps->1->'waiting_for' = '[\"billing\"]' from deployment where deployment_id = $1", order_id
        )

    order_id = UUID(order["deployment_id"])
    connection = await asyncpg.connect(stack.database_url("provisioning", "consumer"))
    try:
        await connection.execute(f"set app.tenant_ids = '{tenant['id']}'")
        await eventually(half_prepared)
        # Its time is over: as if it had begun an hour ago.
        await connection.execute(
            "update deployment set next_check_at = now(),"
            " steps = jsonb_set(steps, '{1,since}', to_jsonb(now() - interval '1 hour')) where deployment_id = $1",
            order_id,
        )
    finally:
        await connection.close()
    undoing = await eventually(lambda: at("compensating"))
    assert undoing["failed_step"] == "prepare_workspaces"
    assert undoing["reason"] == "prepare_workspaces gave up after 120 s: no answer from billing"
    (await platform.send("POST", f"{path}/deployments")).problem(409, "wrong-state")
    await stack.start_service("billing")
    failed = await eventually(lambda: at("failed"))
    assert [step["status"] for step in failed["steps"]] == ["succeeded", "compensated", "pending", "pending"]

    async def told() -> bool:
        return bool((await platform.send("GET", path)).expect(200)["status"] == "failed")

    await eventually(told)
    for service in ("customer", "billing"):
        connection = await asyncpg.connect(stack.database_url(service, "consumer"))
        try:
            await connection.execute(f"set app.tenant_ids = '{tenant['id']}'")
            assert await connection.fetchval("select count(*) from workspace where removed_at is null") == 0
        finally:
            await connection.close()
    order = (await platform.send("POST", f"{path}/deployments")).expect(202)
    again = await eventually(lambda: at("succeeded"))
    assert all(step["status"] == "succeeded" for step in again["steps"])


async def test_provisioning_killed_during_a_deployment_finishes_it(stack: Stack, platform: Api) -> None:
    tenant = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)
    order = (await platform.send("POST", f"{V1}/tenants/{tenant['id']}/deployments")).expect(202)
    stack.children["provisioning"].kill()

    async def ended() -> Any:
        answer = await platform.send("GET", f"{V1}/deployments/{order['deployment_id']}")
        return answer.body if answer.status == 200 and answer.body["status"] in ("succeeded", "failed") else None

    assert (await eventually(ended))["status"] == "succeeded"
    await stack.wait_ready("provisioning")


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
