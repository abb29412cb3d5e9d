"""A tenant is moved between the shared databases and a place of its own, while its users work on."""

import asyncio
import contextlib
import hashlib
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from chassis.messaging.consumer import TRANSIENT
from chassis.persistence.database import HELD
from chassis.persistence.schema import MOVED
from deploy.stack.stack import Stack
from services.provisioning.domain.saga import RECIPES
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy
from tests.crashes import arm, crashed_at_each, mortal
from tests.deployments import done, ended, ordered, past_security, placed, settled, unwritable
from tests.feed import Reader, everything
from tests.integration.test_deprovision import KEPT, rows, settle_in
from tests.integration.test_flow import billed
from tests.integration.test_operation_failures import at, away, failing, time_is_over
from tests.integration.test_targets import ALL, NOTHING, leaves, own_things
from tests.world import fits

V1 = "/api/v1"
SEALED = "to_jsonb(r) - 'body'"
"""What is kept of an answer is sealed anew, under the secret of the new place."""


@pytest.fixture(scope="module", autouse=True)
def began() -> datetime:
    """Return when these tests began: what others left behind is not theirs."""
    return datetime.now(UTC) - timedelta(seconds=1)


@dataclass
class Writer:
    """A client that goes on to make customers, with what it was told of each."""

    api: Api
    made: dict[str, str] = field(default_factory=dict)
    """Ids of customers that were acknowledged, by their references."""
    statuses: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    async def write(self) -> None:
        while True:
            reference = secrets.token_hex(6)
            body = {"name": f"Customer {reference}", "external_reference": reference}
            answer = await self.api.send("POST", f"{V1}/customers", body, headers={"Idempotency-Key": reference})
            self.statuses[answer.status] += 1
            if answer.status == 201:
                self.made[reference] = answer.body["id"]
            read = await self.api.send("GET", f"{V1}/invoices")
            self.statuses[read.status] += 1

    async def has_written(self, more: int = 3) -> None:
        """Return once so many more are made."""
        wanted = len(self.made) + more

        async def so() -> bool:
            return len(self.made) >= wanted

        await eventually(so)


@contextlib.asynccontextmanager
async def writing(api: Api) -> AsyncIterator[Writer]:
    """Have two clients write, until the context is left."""
    writer = Writer(api)
    tasks = [asyncio.create_task(writer.write()) for _ in range(2)]
    try:
        await writer.has_written()
        yield writer
        await writer.has_written()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def contents(stack: Stack, tenant: str, target: str) -> dict[str, tuple[int, str]]:
    """Return how many rows of a tenant each table holds at a place, and a digest of them."""
    found = {}
    for service in ("customer", "billing"):
        async with placed(stack, service, tenant, target) as database:
            tables = [
                row[0] for row in await database.fetch("select tablename from pg_policies where policyname = $1", MOVED)
            ]
            for table in tables:
                lines = [
                    row[0]
                    for row in await database.fetch(
                        f"select ({SEALED})::text from {table} r where tenant_id = $1 order by 1", UUID(tenant)
                    )
                ]
                digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
                found[f"{service}.{table}"] = (len(lines), digest)
    return found


async def has_settled(stack: Stack, isp: Tenant, target: str) -> None:
    """Return once each of a tenant's customers has its account, and all that it told is published."""

    async def so() -> bool:
        async with (
            placed(stack, "customer", isp.id, target) as customer,
            placed(stack, "billing", isp.id, target) as billing,
        ):
            tenant = UUID(isp.id)
            customers = await customer.fetchval("select count(*) from customer where tenant_id = $1", tenant)
            accounts = await billing.fetchval("select count(*) from billing_account where tenant_id = $1", tenant)
            waiting = sum(
                [
                    await each.fetchval("select count(*) from outbox where tenant_id = $1", tenant)
                    for each in (customer, billing)
                ]
            )
        return bool(customers == accounts and not waiting)

    await eventually(so)


async def settled_in(stack: Stack, isp: Tenant) -> None:
    """Use every service, and return once all that follows from it is there."""
    await settle_in(isp)

    async def heard() -> bool:
        async with past_security(stack, "billing") as database:
            known = "select exists (select from billing_settings where tenant_id = $1)"
            return bool(await database.fetchval(known, UUID(isp.id)))

    await eventually(heard)
    await has_settled(stack, isp, "pooled")


async def all_there(stack: Stack, isp: Tenant, target: str, writer: Writer) -> None:
    """See that what was acknowledged is there, once, and nobody was told of a failure."""
    assert set(writer.statuses) == {200, 201}, dict(writer.statuses)
    async with placed(stack, "customer", isp.id, target) as database:
        found = await database.fetch(
            "select external_reference as reference, customer_id::text as id from customer where tenant_id = $1",
            UUID(isp.id),
        )
    known = {row["reference"]: row["id"] for row in found}
    assert len(known) == len(found)
    assert {reference: known.get(reference) for reference in writer.made} == writer.made


async def nothing_at(stack: Stack, isp: Tenant, target: str) -> None:
    """See that nothing of a tenant is left at a place."""
    if target != "pooled":
        assert await own_things(stack, isp.id) == NOTHING
    else:
        left = {name for name, (count, _) in (await contents(stack, isp.id, target)).items() if count}
        assert left <= {"customer.customer_quota"}  # which the shared instance keeps of each tenant
    for service in ("customer", "billing"):
        async with past_security(stack, service) as database:
            # Where it is shared, it may be telling something just now.
            for table in ("moving", *(["outbox", "journal"] if target == "pooled" else [])):
                count = f"select count(*) from {table} where tenant_id = $1"
                assert await database.fetchval(count, UUID(isp.id)) == 0, (service, table)


async def invoices_without_gap(api: Api) -> None:
    items = (await api.send("GET", f"{V1}/invoices", params={"limit": "200"})).expect(200)["items"]
    numbers = sorted(int(item["number"].rpartition("-")[2]) for item in items)
    assert numbers == list(range(1, len(items) + 1))


async def versions_without_gap(stack: Stack, isp: Tenant) -> None:
    """See that whoever follows the tenant's events was told of each version of each thing, once."""
    last = "the last one"
    (await isp.api.send("POST", f"{V1}/customers", {"name": last})).expect(201)

    def enough(reader: Reader) -> bool:
        return any(event["data"].get("name") == last for event in reader.events if event["data"])

    reader = await everything(isp.api, enough)
    versions = defaultdict(list)
    for event in reader.events:
        versions[event["source"].split("/")[2], event["subject"]].append(event["aggregateversion"])
    for aggregate, found in versions.items():
        assert found == list(range(1, len(found) + 1)), aggregate


async def metered(stack: Stack, tenant: str) -> int:
    async with past_security(stack, "billing") as database:
        found = await database.fetchval("select sum(change) from active_customers where tenant_id = $1", UUID(tenant))
    return int(found or 0)


@pytest.mark.parametrize("target", ["process", "container"], indirect=True)
async def test_a_tenant_moves_while_its_users_write(
    stack: Stack, public: Api, platform: Api, began: datetime, target: str
) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    await settled_in(stack, isp)
    made_before = (await isp.api.send("GET", f"{V1}/payments")).expect(200)["items"]
    before = await contents(stack, isp.id, "pooled")
    assert before["billing.invoice"][0] == 1 and before["customer.idempotency_key"][0] == 0
    where = "pooled"
    for number, to in enumerate([target, "pooled", target]):
        async with writing(isp.api) as writer:
            found = await done(platform, stack, isp.id, operation="move", target=to)
            assert (found["target"], found["status"]) == (to, "succeeded")
            assert [step["name"] for step in found["steps"]] == [recipe.name for recipe in RECIPES[to]["move"]]
        await all_there(stack, isp, to, writer)
        await has_settled(stack, isp, to)
        await nothing_at(stack, isp, where)
        assert await own_things(stack, isp.id) == ALL[to]
        where = to
        # What was answered once is answered the same.
        payment = {
            "account_id": made_before[0]["account_id"],
            "amount": {"amount_minor": 100, "currency": "USD"},
            "method": "cash",
        }
        again = await isp.api.send("POST", f"{V1}/payments", payment, headers={"Idempotency-Key": isp.id})
        assert again.expect(201)["id"] == made_before[0]["id"]
        await billed(isp.api, f"2026-0{number + 2}")
        await invoices_without_gap(isp.api)

        async def counted() -> bool:
            customers = (await isp.api.send("GET", f"{V1}/billing-accounts/summary")).expect(200)["count"]
            return bool(await metered(stack, isp.id) == customers)

        await eventually(counted)
    await versions_without_gap(stack, isp)
    (await platform.send("POST", f"{V1}/tenants/{isp.id}/deployments", {"operation": "move", "target": where})).problem(
        409, "wrong-state"
    )
    await leaves(stack, platform, isp.id)
    await fits(stack, began, [])

    kept = {f"{service}.{table}" for service, tables in KEPT.items() for table in tables}
    left: set[str] = set()

    async def gone() -> bool:
        found = await rows(stack, isp.id)
        left.clear()
        # Where it was is provisioning's own to know: the place, and in its journal the routes there.
        own = {"provisioning.instance", "provisioning.journal"}
        left.update({name for name, count in found.items() if count} - kept - own)
        return not left

    try:
        await eventually(gone)
    except AssertionError:
        raise AssertionError(f"there are rows left in {sorted(left)}") from None


async def test_the_rows_of_one_that_moves_are_the_same_after(stack: Stack, public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    await settled_in(stack, isp)
    before = await contents(stack, isp.id, "pooled")
    assert before["billing.idempotency_key"][0] == 1
    where = "pooled"
    for to in ("process", "pooled"):
        await done(platform, stack, isp.id, operation="move", target=to)
        after = await contents(stack, isp.id, to)
        assert {table: found for table, found in after.items() if found != before[table]} == {}
        await nothing_at(stack, isp, where)
        where = to


async def works_at(stack: Stack, platform: Api, isp: Tenant, target: str) -> None:
    """See that a tenant is at a place, and works there."""
    (await isp.api.send("POST", f"{V1}/customers", {"name": "After it"})).expect(201)
    await has_settled(stack, isp, target)
    count = (await isp.api.send("GET", f"{V1}/customers/summary")).expect(200)["total"]
    assert (await contents(stack, isp.id, target))["customer.customer"][0] == count > 0
    found = await done(platform, stack, isp.id, operation="suspend")
    assert found["target"] == target


@pytest.mark.parametrize("missing", ["gateway", "billing"])
async def test_a_move_that_fails_is_undone_and_the_tenant_works_on(
    stack: Stack, public: Api, platform: Api, began: datetime, missing: str
) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    direct, at_tenant = (replace(platform, url=stack.url(each)) for each in ("provisioning", "tenant"))
    async with away(stack, missing):
        deployment = await ordered(at_tenant, isp.id, operation="move", target="process")
        await at(direct, deployment, "hold")
        if missing == "billing":  # which has not taken all: till then nobody is kept waiting
            (await isp.api.send("POST", f"{V1}/customers", {"name": "Before it"})).expect(201)
        await time_is_over(stack, deployment)
        await failing(direct, deployment, "hold")
    found = await ended(platform, deployment)
    assert (found["status"], found["failed_step"]) == ("failed", "hold")
    assert {step["status"] for step in found["steps"]} <= {"succeeded", "compensated", "failed", "pending"}
    await settled(stack, isp.id)
    assert await own_things(stack, isp.id) == NOTHING
    where = "pooled"
    if missing == "billing":
        (await platform.send("POST", f"{V1}/deployments/{deployment}/retry")).expect(200)
        assert (await ended(platform, deployment))["status"] == "succeeded"
        await settled(stack, isp.id)
        where = "process"
    await works_at(stack, platform, isp, where)
    await leaves(stack, platform, isp.id)
    await fits(stack, began, [])


@pytest.mark.parametrize("name", ["start_instances", "drain", "copy"])
@pytest.mark.parametrize("target", ["process", "container"], indirect=True)
async def test_a_move_that_is_given_up_leaves_a_tenant_as_it_was(
    stack: Stack, public: Api, platform: Api, began: datetime, target: str, name: str
) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    await settled_in(stack, isp)
    before = await contents(stack, isp.id, "pooled")
    order = {"operation": "move", "target": target}
    async with contextlib.AsyncExitStack() as until_given_up:
        hold = until_given_up.enter_async_context
        if name == "start_instances":
            await hold(unwritable(stack, "provisioning", "instance"))
            deployment = await ordered(platform, isp.id, **order)
        else:
            deployment = await ordered(platform, isp.id, **order)
            await at(platform, deployment, "start_instances")
            database = await hold(placed(stack, "customer", isp.id, target))
            await hold(database.transaction())
            await database.execute(f"lock table {'moving' if name == 'drain' else 'customer'} in share mode")
        await at(platform, deployment, name)
        (await platform.send("POST", f"{V1}/deployments/{deployment}/cancel")).expect(200)
    found = await ended(platform, deployment)
    assert (found["status"], found["failed_step"]) == ("failed", name)
    assert {step["status"] for step in found["steps"]} <= {"succeeded", "compensated", "failed", "pending"}
    await settled(stack, isp.id)
    assert await own_things(stack, isp.id) == NOTHING
    assert await contents(stack, isp.id, "pooled") == before
    await works_at(stack, platform, isp, "pooled")
    await leaves(stack, platform, isp.id)
    await fits(stack, began, [])


OUT = [
    ("before hold", 1),  # the new place is reserved
    ("after domain commit", 1),  # the gateway is told to wait
    ("after hold", 2),  # the old place holds
    ("after hold", 4),  # all is drained
    ("before copy", 1),
    ("after copy", 3),
    ("after opening", 1),
    ("after domain commit", 1),  # the route is told
    ("after journal", 1),
    ("after removal", 1),
]
BACK = [
    ("after hold", 1),
    ("after domain commit", 1),
    ("after hold", 4),
    ("after copy", 1),
    ("after opening", 1),
    ("before domain commit", 1),  # the route is withdrawn
    ("after journal", 1),
]
# What was its own is removed.
REMOVED = {"process": ("after definition", 1), "container": ("after engine change", 1)}


@pytest.mark.parametrize("target", ["process", "container"], indirect=True)
async def test_a_tenant_moves_in_spite_of_crashes(
    stack: Stack, public: Api, platform: Api, began: datetime, tmp_path: Path, target: str
) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    await settled_in(stack, isp)
    before = await contents(stack, isp.id, "pooled")
    file = tmp_path / "provisioning.crash"
    async with mortal(stack, file, DEPLOYMENT_LEASE_SECONDS="1"):
        for where, to, points in (("pooled", target, OUT), (target, "pooled", [*BACK, REMOVED[target]])):
            arm(file, *points[0])
            deployment = await ordered(platform, isp.id, operation="move", target=to)
            await crashed_at_each(stack, file, points[1:])
            found = await ended(platform, deployment)
            assert (found["status"], found["reason"]) == ("succeeded", None)
            await settled(stack, isp.id)
            after = await contents(stack, isp.id, to)
            assert {table: rows for table, rows in after.items() if rows != before[table]} == {}
            await nothing_at(stack, isp, where)
    await versions_without_gap(stack, isp)
    await fits(stack, began, [])


async def test_what_is_held_is_changed_by_nobody_and_moved_by_the_owner_alone(
    stack: Stack, isp: Tenant, other: Tenant
) -> None:
    await settled(stack, isp.id)
    tenant, change = UUID(isp.id), "update workspace set version = version"
    api = await asyncpg.connect(stack.database_url("customer", "api"))
    consumer = await asyncpg.connect(stack.database_url("customer", "consumer"))
    owner = await asyncpg.connect(stack.database_url("customer", "owner"))
    hold = "insert into moving values ($1, $1, $2, false) on conflict (tenant_id) do update set held = excluded.held"
    body = {"name": "Held", "external_reference": "held"}
    shared = replace(isp.api, url=stack.url("customer"))
    try:
        await owner.execute(hold, tenant, "requests")
        await consumer.execute(f"set app.tenant_ids = '{isp.id},{other.id}'")
        assert await consumer.execute(change) == "UPDATE 2"
        answer = await shared.send("POST", f"{V1}/customers", body)
        answer.problem(503, "tenant-moving")
        assert answer.headers["Retry-After"] == "1"
        (await replace(other.api, url=shared.url).send("POST", f"{V1}/customers", {"name": "Free"})).expect(201)
        assert await owner.fetchval("select count(*) from customer_quota") == 0
        await owner.execute(hold, tenant, "everything")
        with pytest.raises(TRANSIENT) as refused:
            await consumer.execute(change)
        assert refused.value.constraint_name == HELD  # type: ignore[attr-defined]
        await consumer.execute(f"set app.tenant_ids = '{other.id}'")
        assert await consumer.execute(change) == "UPDATE 1"
        assert {row[0] for row in await owner.fetch("select tenant_id from customer_quota")} == {tenant}
        for working in (api, consumer):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await working.execute("delete from moving")
    finally:
        await owner.execute("delete from moving where tenant_id = $1", tenant)
        for connection in (api, consumer, owner):
            await connection.close()
    (await shared.send("POST", f"{V1}/customers", body)).expect(201)
