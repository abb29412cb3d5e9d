"""A tenant leaves: its data is written down whole, and then there is nothing of it in any table of any service."""

import asyncio
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaProducer

from chassis.ids import new_id
from deploy.roles import SERVICES
from deploy.stack.stack import Stack
from dotmac_contracts.customer import CustomerCreated
from dotmac_contracts.envelope import encode
from dotmac_contracts.provisioning import DataDeletionRequested
from services.billing.consumers import customers, departures
from tests.api import Api, eventually
from tests.conftest import PASSWORD, Tenant, deploy
from tests.deployments import done, ended, ordered, past_security, settled, tables_of_tenants
from tests.in_process import received, service_in_process
from tests.integration.test_flow import accounts, accounts_of, billed, imported
from tests.subscriptions import all_handled

V1 = "/api/v1"
KEPT = {
    "tenant": {"tenant", "tenant_transition", "deployment_order", "departure"},
    "provisioning": {"deployment", "deployment_log", "drift"},
    **{service: {"departure"} for service in ("customer", "integration")},
    "billing": {"departure", "active_customers"},
}
"""What the platform itself knows of a tenant, and keeps."""
KEPT_TOPICS = (
    "tenant.tenant.v1",
    "tenant.tenant-snapshot.v1",
    "tenant.deployment.v1",
    "provisioning.deployment.v1",
    "tenant.departure.v1",
    "customer.departure.v1",
    "billing.departure.v1",
    "integration.departure.v1",
)


async def rows(stack: Stack, tenant: str) -> Counter[str]:
    """Count a tenant's rows in every table of every service that has a tenant_id, past row-level security."""
    found: Counter[str] = Counter()
    for service in SERVICES:
        async with past_security(stack, service) as connection:
            for table in await tables_of_tenants(connection):
                events = table in ("outbox", "journal")
                found[f"{service}.{table}"] = await connection.fetchval(
                    f"select count(*) from {table} where tenant_id = $1"
                    # Tombstones are nothing of it: they take back what was told.
                    + (f" and topic <> all('{{{','.join(KEPT_TOPICS)}}}') and value is not null" if events else ""),
                    UUID(tenant),
                )
            found[f"{service}.dead_letter"] = await connection.fetchval(
                "select count(*) from dead_letter"
                " where headers::text like '%' || encode($1::text::bytea, 'base64') || '%'",
                tenant,
            )
    return found


async def nothing_stays(stack: Stack, tenant: str) -> None:
    """Return once nothing of a tenant is left but what the platform itself keeps."""

    async def gone() -> bool:  # what is told of it last goes through an outbox as well
        left = await rows(stack, tenant)
        return not [
            name for name, count in left.items() if count and name.split(".")[1] not in KEPT[name.split(".")[0]]
        ]

    await eventually(gone)


async def settle_in(isp: Tenant) -> None:
    """Use every service, so that each holds something."""
    (await isp.api.send("POST", f"{V1}/webhook-endpoints", {"url": "https://t.example/"})).expect(201)
    await imported(isp.api, "external_reference,name\nd-1,Ada\nd-2,Grace\nd-1,Twice\n")
    await accounts_of(isp.api, "d-1", "d-2")
    order = {"customer_external_reference": "d-1", "plan_code": "FIBER", "started_on": "2026-01-01"}
    subscription = (await isp.api.send("POST", f"{V1}/subscriptions", order)).expect(201)
    await billed(isp.api, "2026-01")
    payment = {
        "account_id": subscription["account_id"],
        "amount": {"amount_minor": 100, "currency": "USD"},
        "method": "cash",
    }
    (await isp.api.send("POST", f"{V1}/payments", payment, headers={"Idempotency-Key": isp.id})).expect(201)
    for category, settings in (
        ("billing", {"payment_terms_days": 30}),
        ("notifications", {"smtp_user": isp.slug, "smtp_password": "correct horse"}),
    ):
        path, match = f"{V1}/settings/{category}", {"If-Match": "*"}
        (await isp.api.send("PATCH", path, settings, headers=match)).expect(200)


def exported(stack: Stack, tenant: str, deployment: str) -> Path:
    return stack.folder / "exports" / tenant / deployment


async def test_a_tenant_leaves_with_all_its_data_and_nothing_of_it_stays(
    stack: Stack, public: Api, platform: Api, other: Tenant
) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    await settle_in(isp)
    of_another = await rows(stack, other.id)
    before = await rows(stack, isp.id)
    assert all(before[f"{service}.journal"] for service in ("tenant", "customer", "billing", "integration"))
    known = (await isp.api.send("GET", f"{V1}/customers")).expect(200)["items"]
    found = await done(platform, stack, isp.id, operation="deprovision", grace_seconds=0, reason="They leave")
    assert [step["name"] for step in found["steps"]] == [
        "close_access",
        "verify_closed",
        "export_data",
        "delete_data",
        "prove_deletion",
        "retire",
    ]
    assert "customer deleted" in found["steps"][3]["detail"]
    assert found["steps"][4]["detail"].count("has 0 left") == 4

    await nothing_stays(stack, isp.id)
    after = await rows(stack, other.id)
    assert {name: count for name, count in after.items() if count < of_another[name]} == {}

    folder = exported(stack, isp.id, found["id"])
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.ndjson")}
    lines = {name: path.read_bytes().splitlines() for name, path in files.items()}
    assert {json.loads(line)["customer_id"] for line in lines["customer/customer.ndjson"]} == {
        item["id"] for item in known
    }
    for name in ("invoice", "invoice_line", "payment", "subscription", "billing_account", "ledger_entry"):
        assert len(lines[f"billing/{name}.ndjson"]) == before[f"billing.{name}"]
        assert lines[f"billing/{name}.ndjson"]
    assert [json.loads(line)["email"] for line in lines["tenant/app_user.ndjson"]] == [isp.administrator]
    everything = b"".join(path.read_bytes() for path in files.values())
    for secret in (b"argon2", b"password_hash", b"token_hash", b'"secret"'):
        assert secret not in everything
    for service in ("tenant", "customer", "billing", "integration"):
        manifest = json.loads((folder / service / "manifest.json").read_text())
        assert {entry["table"] for entry in manifest} == {path.stem for path in (folder / service).glob("*.ndjson")}
        for entry in manifest:
            content = files[f"{service}/{entry['table']}.ndjson"].read_bytes()
            assert (hashlib.sha256(content).hexdigest(), content.count(b"\n")) == (entry["sha256"], entry["rows"])
        connection = await asyncpg.connect(stack.database_url(service, "consumer"))
        try:
            await connection.execute(f"set app.tenant_ids = '{isp.id}'")
            proof = json.loads(await connection.fetchval("select tables from departure"))
        finally:
            await connection.close()
        assert proof
        assert all(table["remaining"] == 0 for table in proof)

    path = f"{V1}/tenants/{isp.id}"
    assert (await platform.send("GET", path)).expect(200)["status"] == "deprovisioned"

    async def refused() -> bool:  # once the gateway has heard of the last step as well
        answer = await isp.api.send("GET", f"{V1}/customers")
        return answer.status == 403 and bool(answer.body["type"] == "/problems/tenant-deprovisioned")

    await eventually(refused)
    form = {"username": isp.administrator, "password": PASSWORD, "tenant": isp.slug}
    (await public.send("POST", f"{V1}/auth/token", form=form)).problem(401, "invalid-credentials")
    for operation in ("deploy", "resume", "deprovision"):
        (await platform.send("POST", f"{path}/deployments", {"operation": operation})).problem(409, "wrong-state")
    # Its audit log is gone as well; who had it go is known to the platform's own.
    wanted = {"resource_type": "tenant.tenant", "resource_id": isp.id}

    async def told() -> list[dict[str, Any]] | None:
        found = (await platform.send("GET", f"{V1}/audit-entries", params=wanted)).expect(200)["items"]
        return found or None

    (entry,) = await eventually(told)
    assert (entry["action"], entry["actor_kind"]) == ("dotmac.tenant.TenantDeprovisioned", "platform")
    assert len(lines["integration/audit_entry.ndjson"]) > 10
    transitions = (await platform.send("GET", f"{path}/transitions")).expect(200)["items"]
    assert [item["to_status"] for item in transitions[-3:]] == ["active", "deprovisioning", "deprovisioned"]


async def test_a_tenant_that_leaves_in_the_middle_of_an_import_leaves_nothing(
    stack: Stack, public: Api, platform: Api
) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    content = "external_reference,name\n" + "".join(f"m-{number},Customer {number}\n" for number in range(20_000))
    headers = {"Content-Type": "text/csv"}
    (await isp.api.send("POST", f"{V1}/customers/imports", raw=content.encode(), headers=headers)).expect(202)
    await accounts(isp.api, 1)
    await done(platform, stack, isp.id, operation="deprovision", grace_seconds=0)
    await all_handled(stack.kafka)
    await nothing_stays(stack, isp.id)


async def test_a_customer_who_is_told_of_once_the_tenant_has_left_is_no_dead_letter(
    stack: Stack, public: Api, platform: Api
) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    await done(platform, stack, isp.id, operation="deprovision", grace_seconds=0)
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka) as producer:
        (late,) = received(_created(isp))
        record = encode(late.event, late.envelope)
        await producer.send_and_wait(record.topic, record.value, record.key, headers=record.headers)
    await all_handled(stack.kafka)
    await nothing_stays(stack, isp.id)


async def test_an_account_that_is_opened_while_the_data_is_deleted_is_deleted_with_it(
    stack: Stack, public: Api, platform: Api
) -> None:
    isp = await deploy(public, platform)
    await all_handled(stack.kafka)
    tenants = [UUID(isp.id)]
    leaves = DataDeletionRequested(tenant_id=UUID(isp.id), deployment_id=new_id(), step="delete_data")
    async with service_in_process(stack, "billing") as service:
        create = customers.subscription(service).handlers[CustomerCreated]
        delete = departures.subscription(service).handlers[DataDeletionRequested]

        async def deleted() -> None:
            async with service.consumer_db.for_tenants(tenants) as tx:
                await delete(tx, received(leaves))

        async with past_security(stack, "billing") as database, service.consumer_db.for_tenants(tenants) as tx:
            await create(tx, received(_created(isp)))
            opener = await tx.fetchval("select pg_backend_pid()")
            leaving = asyncio.create_task(deleted())

            async def waits() -> bool:
                blocked = "select exists (select from pg_stat_activity where $1 = any(pg_blocking_pids(pid)))"
                return leaving.done() or bool(await database.fetchval(blocked, opener))

            await eventually(waits)
            assert not leaving.done()
        await leaving
        await deleted()  # as it is proven
        async with service.consumer_db.for_tenants(tenants) as tx:
            assert await tx.fetchval("select count(*) from billing_account") == 0
            proof = await tx.fetchval("select tables from departure")
        assert {table["table"]: table["remaining"] for table in proof if table["remaining"]} == {}


def _created(isp: Tenant) -> CustomerCreated:
    ids = {"customer_id": new_id(), "tenant_id": isp.id}
    return CustomerCreated.model_validate({**ids, "name": "Ada", "status": "active", "paperless_billing": False})


async def test_a_tenant_that_stays_after_all_has_lost_nothing(stack: Stack, public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    (await isp.api.send("POST", f"{V1}/customers", {"name": "Ada"})).expect(201)
    deployment = await ordered(platform, isp.id, operation="deprovision")

    async def waiting() -> Any:
        found = (await platform.send("GET", f"{V1}/deployments/{deployment}")).expect(200)
        return found if found["status"] == "waiting" else None

    found = await eventually(waiting)
    grace = next(step for step in found["steps"] if step["name"] == "grace")
    assert grace["until"] > found["created_at"]
    (await isp.api.send("GET", f"{V1}/customers")).problem(403, "tenant-deprovisioning")
    (await platform.send("POST", f"{V1}/deployments/{deployment}/cancel", {"reason": "They stay"})).expect(200)
    assert (await ended(platform, deployment))["status"] == "failed"
    await settled(stack, isp.id)
    assert (await platform.send("GET", f"{V1}/tenants/{isp.id}")).expect(200)["status"] == "active"

    async def served() -> Any:
        answer = await isp.api.send("GET", f"{V1}/customers")
        return answer.body["items"] if answer.status == 200 else None

    assert [item["name"] for item in await eventually(served)] == ["Ada"]


async def test_nothing_is_deleted_that_could_not_be_written_down(stack: Stack, public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    before = await rows(stack, isp.id)
    place = stack.folder / "exports"
    place.mkdir(exist_ok=True)
    (place / isp.id).write_text("a file, where a folder would have to be")
    found = await ended(platform, await ordered(platform, isp.id, operation="deprovision", grace_seconds=0))
    assert (found["status"], found["failed_step"]) == ("failed", "export_data")
    assert "could not write its data down" in found["reason"]
    await settled(stack, isp.id)
    assert (await platform.send("GET", f"{V1}/tenants/{isp.id}")).expect(200)["status"] == "active"
    after = await rows(stack, isp.id)
    assert {name for name, count in before.items() if after[name] < count and "outbox" not in name} == set()
