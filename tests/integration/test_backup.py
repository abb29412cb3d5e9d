"""Backups that are made while the platform works, and the platform taken back to them: nothing lost, nothing twice.

On a stack of its own, because its services are stopped and its databases exchanged.
"""

import asyncio
import json
import os
import random
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from chassis.ids import PLATFORM_TENANT
from cli.client import API
from deploy import backup as backups
from deploy.roles import SERVICES
from deploy.stack.stack import Stack, temporary
from dotmac_contracts.topics import ALL
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy, sign_in
from tests.integration.test_flow import accounts, billed, imported
from tests.subscriptions import all_handled, subscriptions


@pytest.fixture(scope="module")
async def own() -> AsyncIterator[Stack]:
    async with temporary("backup", partial(Stack, any_ports=True, postgres_url="", kafka_servers="")) as running:
        if running._broker is None or not running._broker.idempotence:
            pytest.skip("a restore deletes Kafka's records, and the small broker can't: install Java and Maven")
        yield running


@dataclass
class Load:
    """A client that creates, renames and terminates customers, and notes what was answered."""

    api: Api
    created: list[str] = field(default_factory=list)
    _task: "asyncio.Task[None] | None" = None
    _enough: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._enough.set()
        assert self._task is not None
        await self._task

    async def more(self, count: int) -> None:
        wanted = len(self.created) + count

        async def there() -> bool:
            assert self._task is not None
            if self._task.done():
                self._task.result()
            return len(self.created) >= wanted

        await eventually(there)

    async def _run(self) -> None:
        chance = random.Random(7)
        while not self._enough.is_set():
            answer = (await self.api.send("POST", f"{API}/customers", {"name": "Load"})).expect(201)
            self.created.append(answer["id"])
            path = f"{API}/customers/{answer['id']}"
            if chance.random() < 0.3:
                body = {"name": "Renamed"}
                (await self.api.send("PATCH", path, body, headers={"If-Match": '"1"'})).expect(200)
            elif chance.random() < 0.2:
                (await self.api.send("POST", f"{path}/terminate", {})).expect(200)


async def dotmac(stack: Stack, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the command as an operator would, against the stack's servers or what the environment names."""
    servers = environment or {"DATABASE_URL": stack.server_url}
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "cli", *arguments],
        env={**os.environ, **servers, "KAFKA_BOOTSTRAP_SERVERS": stack.kafka},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def stop_services(stack: Stack) -> None:
    await asyncio.gather(*(stack.children[name].stop() for name in ("gateway", *SERVICES)))


async def start_services(stack: Stack) -> None:
    await asyncio.gather(*(stack.start_service(name) for name in (*SERVICES, "gateway")))


async def ask(stack: Stack, service: str, sql: str) -> list[Any]:
    connection = await asyncpg.connect(backups.databases(stack.server_url)[service])
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


@dataclass(frozen=True)
class History:
    """What all services say happened."""

    customers: dict[str, str]
    accounts: dict[str, str]
    events: dict[str, tuple[str, str, str, int]]
    """By id: topic, key, type, version of the aggregate."""
    handled: dict[str, set[str]]
    """By consumer: ids of events."""
    letters: int
    ledger: int

    def unhandled(self) -> set[tuple[str, str]]:
        """Return the events that a consumer should have handled and has not, with the consumer."""
        return {
            (subscription.consumer, event)
            for items in subscriptions().values()
            for subscription in items
            if not subscription.of_instances  # there are none here
            for event, (topic, _, kind, _) in self.events.items()
            if topic in {it.name for it in subscription.topics} and kind in {it.TYPE for it in subscription.handlers}
            if event not in self.handled[subscription.consumer]
        }

    def wrong(self) -> list[str]:
        """Return what contradicts itself, whether or not everything has arrived."""
        found = [
            f"{consumer} handled {event}, which nobody published"
            for consumer, ids in self.handled.items()
            for event in ids - self.events.keys()
        ]
        versions: dict[tuple[str, str], list[int]] = defaultdict(list)
        snapshots = {topic.name for topic in ALL if topic.compacted}  # several may be of one version
        for topic, key, _, version in self.events.values():
            if topic not in snapshots:
                versions[topic, key].append(version)
        found += [
            f"{topic} of {key} has versions {sorted(seen)}"
            for (topic, key), seen in versions.items()
            if sorted(seen) != list(range(1, len(seen) + 1))
        ]
        strangers = self.accounts.keys() - self.customers.keys()
        found += [f"an account of {customer}, whom there is not" for customer in strangers]
        if self.ledger:
            found.append(f"the ledger sums to {self.ledger}")
        if self.letters:
            found.append(f"{self.letters} dead letters")
        return found


async def history(stack: Stack) -> History:
    events: dict[str, tuple[str, str, str, int]] = {}
    handled: dict[str, set[str]] = defaultdict(set)
    letters = 0
    # Effects before their causes, as more of both come meanwhile.
    accounts = dict(
        # The platform's own are of tenants, not of customers.
        await ask(
            stack,
            "billing",
            f"select customer_id::text, status from billing_account where tenant_id <> '{PLATFORM_TENANT}'",
        )
    )
    for service in SERVICES:
        for row in await ask(stack, service, "select consumer, event_id::text from inbox"):
            handled[row["consumer"]].add(row["event_id"])
    for service in SERVICES:
        columns = "event_id::text, topic, key, headers"
        for row in await ask(stack, service, f"select {columns} from journal union all select {columns} from outbox"):
            headers = json.loads(row["headers"])
            said = (row["topic"], row["key"], headers["ce_type"], int(headers["ce_aggregateversion"]))
            assert events.setdefault(row["event_id"], said) == said
        letters += (await ask(stack, service, "select count(*) from dead_letter where resolved_at is null"))[0][0]
    return History(
        dict(await ask(stack, "customer", "select customer_id::text, status from customer")),
        accounts,
        events,
        handled,
        letters,
        (await ask(stack, "billing", "select coalesce(sum(amount_minor), 0)::int from ledger_entry"))[0][0],
    )


async def converged(stack: Stack) -> History:
    """Return the history once everything has arrived, and hold it against itself."""

    async def arrived() -> bool:
        seen = await history(stack)
        assert seen.wrong() == []
        return not seen.unhandled()

    await eventually(arrived)
    await all_handled(stack.kafka)
    seen = await history(stack)
    assert seen.wrong() == []
    ended = {customer for customer, status in seen.customers.items() if status == "terminated"}
    assert seen.accounts.keys() == seen.customers.keys()
    assert {customer for customer, status in seen.accounts.items() if status == "closed"} == ended
    return seen


async def test_the_platform_goes_back_to_the_moment_of_a_backup(own: Stack, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        public = Api(own.gateway_url, http, None, set(), {})
        platform = public.as_(await sign_in(public, *own.administrator))
        tenant: Tenant = await deploy(public, platform)
        await imported(tenant.api, "external_reference,name\n" + "".join(f"B-{n},Customer {n}\n" for n in range(200)))
        await accounts(tenant.api, 200)
        items = [
            {"customer_external_reference": f"B-{n}", "plan_code": "DSL", "started_on": "2026-01-01"}
            for n in range(100)
        ]
        (await tenant.api.send("POST", f"{API}/subscriptions/bulk", {"items": items})).expect(200)
        await billed(tenant.api, "2026-01")

        load = Load(tenant.api)
        load.start()
        # One while everything is at work …
        await load.more(50)
        acknowledged = {"busy": set(load.created)}
        status, said = await dotmac(own, "backup", "create", str(tmp_path / "busy"))
        assert status == 0, said
        later = {"busy": len(load.created)}
        # … and one while billing is away, so that much is on its way to it.
        await own.children["billing"].stop()
        await load.more(50)
        acknowledged["behind"] = set(load.created)
        status, said = await dotmac(own, "backup", "create", str(tmp_path / "behind"))
        assert status == 0, said
        later["behind"] = len(load.created)
        await own.start_service("billing")
        await load.more(50)
        await load.stop()
        future = await converged(own)
        assert set(load.created) <= future.customers.keys()
        # Some of the future has not been read by all when it ends.
        await own.children["billing"].stop()
        unread = Load(tenant.api)
        unread.start()
        await unread.more(30)
        await unread.stop()

        status, said = await dotmac(own, "backup", "restore", str(tmp_path / "busy"))
        assert status == 1
        assert "in use" in said, "services that run are noticed before anything is changed"
        assert (await history(own)).customers.keys() == future.customers.keys() | set(unread.created)

        for name in ("behind", "busy"):
            await stop_services(own)
            if name == "behind":
                status, said = await dotmac(own, "backup", "restore", str(tmp_path / name))
            else:  # as after a recovery by other means: the databases first, then the events, as their owners
                moment = (await backups.restore(own.server_url, tmp_path / name, lambda _: None)).moment
                owners = {f"{service.upper()}_DATABASE_URL": own.database_url(service, "owner") for service in SERVICES}
                status, said = await dotmac(own, "backup", "replay", "--moment", moment.isoformat(), **owners)
            assert status == 0, said
            restored = await history(own)
            assert restored.wrong() == [], "the moment is one at which no service knows more than another told"
            assert acknowledged[name] <= restored.customers.keys()
            assert restored.customers.keys().isdisjoint(load.created[later[name] + 1 :])
            if name == "behind":
                assert len({event for consumer, event in restored.unhandled() if consumer == "billing-customers"}) >= 50
            await start_services(own)
            seen = await converged(own)
            assert seen.customers == restored.customers, "nothing of the future comes back"
            bills = (await tenant.api.send("GET", f"{API}/invoices/summary", params={"period": "2026-01"})).expect(200)
            assert bills["count"] == 100

            # And it goes on from there.
            again = Load(tenant.api)
            again.start()
            await again.more(20)
            await again.stop()
            assert (await converged(own)).customers.keys() == restored.customers.keys() | set(again.created)


async def test_a_damaged_or_unfinished_backup_is_refused_before_anything_is_changed(own: Stack, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    status, said = await dotmac(own, "backup", "create", str(folder))
    assert status == 0, said
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.dump")} == {0o600}
    status, said = await dotmac(own, "backup", "create", str(folder))
    assert (status, "not empty" in said) == (1, True)
    await stop_services(own)
    before = await history(own)
    dump = folder / "dotmac_billing.dump"
    whole = dump.read_bytes()
    for damage in (whole[:-1], b"", whole[:1000] + b"?" + whole[1001:]):
        dump.write_bytes(damage)
        status, said = await dotmac(own, "backup", "restore", str(folder))
        assert status == 1
        assert "damaged" in said
    dump.write_bytes(whole)
    manifest = folder / "manifest.json"
    kept = manifest.read_text()
    manifest.unlink()
    status, said = await dotmac(own, "backup", "restore", str(folder))
    assert (status, "no complete backup" in said) == (1, True)
    # A dump that passes as whole and can't be restored leaves every database as it was.
    dump.write_bytes(b"PGDMP, but not one")
    described = json.loads(kept)
    described["databases"]["billing"]["sha256"] = backups._sha256(dump)
    manifest.write_text(json.dumps(described))
    status, said = await dotmac(own, "backup", "restore", str(folder))
    assert (status, "pg_restore of dotmac_billing" in said) == (1, True), said
    assert await history(own) == before


async def test_a_backup_waits_for_nobody_for_long(own: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "_FENCE_SECONDS", 0.2)
    monkeypatch.setattr(backups, "_ATTEMPTS", 2)
    urls = backups.databases(own.server_url)
    busy = await asyncpg.connect(urls["billing"])
    other = await asyncpg.connect(urls["customer"])
    try:
        await busy.execute("begin; lock table outbox in row exclusive mode")
        with pytest.raises(backups.BackupError, match="was under way"):
            await backups.create(own.server_url, tmp_path / "backup", lambda _: None)
        # Nothing is left locked behind.
        await other.execute("begin; lock table outbox in row exclusive mode nowait; rollback")
    finally:
        await busy.close()
        await other.close()
