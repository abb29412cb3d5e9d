"""What targets share at which a tenant has databases and instances of its own; each says what is different there.

The databases and roles are made as the platform's own are. The instances are the supervisor's: a step says what is
wanted, and is done when that is so.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from uuid import UUID

import aiohttp
import asyncpg

from chassis.messaging.broker import BrokerError, forget_groups
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.security import client_security
from chassis.persistence.database import LOST
from chassis.persistence.migrations import upgrade
from chassis.service import Service
from chassis.settings import Settings
from deploy.prepare import Refused, create_database, create_roles
from dotmac_contracts.provisioning import DEDICATED
from services.provisioning.domain.saga import Command, Impossible
from services.provisioning.instances import (
    InstanceError,
    addresses_of,
    instance_url,
    instances_of,
    named,
    parts_of,
    passwords,
    route_of,
    serving,
    together,
)
from services.provisioning.instances.supervisor import SUPERVISOR
from services.provisioning.tables import cause_of

_CONNECT_SECONDS = 5.0
_SERVERS_AT_ONCE = 20
_READY_SECONDS = 2.0
_WANT = """
insert into instance as i (tenant_id, deployment_id, target, wanted, release) values ($1, $2, $3, true, $4)
on conflict (tenant_id) do update set wanted = true, deployment_id = excluded.deployment_id, target = excluded.target,
    release = excluded.release, instances = 1, serving = null, before = null
where not i.wanted
"""
_REPLACE = """
update instance set deployment_id = $2, release = $3, instances = $4, generation = $5, before = $6, changed_by = $7,
    serving = $8 where tenant_id = $1 returning *
"""


class Dedicated(ABC):
    """A place where a tenant has all that holds what its customers are to itself."""

    dedicated = True
    name: str
    parts: Sequence[str]
    """What runs there for a tenant, of what it is recorded."""

    @abstractmethod
    def refusal(self) -> str | None:
        """Return why no tenant can be deployed there by this installation; None if it can."""

    @abstractmethod
    def releases(self) -> Sequence[str]:
        """Return the releases that instances can be of there, the newest first."""

    async def migrate(self, url: str, service: str, release: str | None) -> None:
        """Bring the database of an instance, given as its owner's address, to the version that a release knows.

        Here by provisioning's own release; a target that has others runs theirs.
        """
        await upgrade(service, url)

    @abstractmethod
    async def prepare_server(self, settings: Settings, tenant_id: UUID) -> None:
        """Have the server run that the tenant's databases are on."""

    @abstractmethod
    async def server_url(self, settings: Settings, tenant_id: UUID) -> str:
        """Return the address of that server, as the user who may create databases."""

    @abstractmethod
    async def drop_databases(self, settings: Settings, tenant_id: UUID) -> None:
        """Remove the tenant's databases, with all that was made for them."""

    @asynccontextmanager
    async def connected(
        self, settings: Settings, tenant_id: UUID
    ) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Connect to that server, as that user."""
        connection = await asyncpg.connect(await self.server_url(settings, tenant_id), timeout=_CONNECT_SECONDS)
        try:
            yield connection
        finally:
            await connection.close()

    async def lost(self, settings: Settings, tenant_ids: Collection[UUID]) -> dict[UUID, list[str]]:
        """Return which databases of these tenants are not there, of those of whom that can be told now."""
        turns = asyncio.Semaphore(_SERVERS_AT_ONCE)

        async def address(tenant_id: UUID) -> str | None:
            with suppress(Refused, InstanceError):
                async with turns:
                    return await self.server_url(settings, tenant_id)
            return None

        async def there(tenants: Sequence[UUID]) -> set[str] | None:
            with suppress(*LOST, Refused, InstanceError):
                async with turns, self.connected(settings, tenants[0]) as connection:
                    return {row[0] for row in await connection.fetch("select datname from pg_database")}
            return None

        servers = defaultdict(list)
        for tenant_id, url in zip(tenant_ids, await asyncio.gather(*map(address, tenant_ids)), strict=True):
            if url is not None:
                servers[url].append(tenant_id)
        found: dict[UUID, list[str]] = {}
        for tenants, names in zip(servers.values(), await asyncio.gather(*map(there, servers.values())), strict=True):
            if names is not None:
                for tenant_id in tenants:
                    its = [f"dotmac_{named(service, tenant_id)}" for service in DEDICATED]
                    found[tenant_id] = [name for name in its if name not in names]
        return found

    def placement(self, tenant_id: UUID) -> str:
        """Return the name of the tenant's own place."""
        return f"{self.name}-{tenant_id}"

    async def do(self, service: Service, deployment: Any, command: Command) -> str | None:
        """Do one of the commands that are the target's; return what is wrong yet, or None."""
        tenant_id = deployment["tenant_id"]
        try:
            match command:
                case Command.CREATE_DATABASES:
                    await self._create_databases(service.settings, tenant_id)
                case Command.MIGRATE:
                    await self._migrate(service, deployment)
                case Command.START_INSTANCES:
                    return await self._start(service, deployment)
                case Command.REPLACE_INSTANCES | Command.RESTORE_INSTANCES:
                    return await self._replace(service, deployment, command)
                case Command.ASSIGN_ROUTE:
                    row = await rerouted(service, deployment, "routed = true, on_hold = false where tenant_id = $1")
                    assert row is not None, "its instances are started before"
                case Command.WITHDRAW_ROUTE:
                    gone = "routed = false, on_hold = false where tenant_id = $1 and (routed or on_hold)"
                    await rerouted(service, deployment, gone)
                case Command.STOP_INSTANCES:
                    return await self._stop(service, tenant_id)
                case Command.DROP_DATABASES:
                    await self.drop_databases(service.settings, tenant_id)
                case _:
                    raise AssertionError(f"no recipe of this target has {command}")
        except (Refused, InstanceError, BrokerError, asyncpg.PostgresError) as error:
            return str(error)
        return None

    async def _create_databases(self, settings: Settings, tenant_id: UUID) -> None:
        await self.prepare_server(settings, tenant_id)
        await together(*(self._create_database(settings, tenant_id, named(name, tenant_id)) for name in DEDICATED))

    async def _create_database(self, settings: Settings, tenant_id: UUID, own: str) -> None:
        async with self.connected(settings, tenant_id) as connection:
            await create_roles(connection, passwords(settings, own))
            await create_database(connection, own)

    async def _migrate(self, service: Service, deployment: Any) -> None:
        tenant_id, settings = deployment["tenant_id"], service.settings
        server_url = await self.server_url(settings, tenant_id)
        if deployment["operation"] == "upgrade":
            release = self._release(deployment["request"].get("release"))
        else:
            async with service.consumer_db.for_tenants([tenant_id]) as tx:
                release = await tx.fetchval("select release from instance where tenant_id = $1 and wanted", tenant_id)
        urls = {name: instance_url(settings, server_url, name, tenant_id, "owner") for name in DEDICATED}
        await together(*(self.migrate(url, name, release) for name, url in urls.items()))

    async def _start(self, service: Service, deployment: Any) -> str | None:
        tenant_id = deployment["tenant_id"]
        async with service.consumer_db.for_tenants([tenant_id]) as tx:
            await tx.execute(_WANT, tenant_id, deployment["deployment_id"], self.name, self.releases()[0])
            row = await tx.fetchrow("select * from instance where tenant_id = $1", tenant_id)
        assert row is not None
        service.wake(SUPERVISOR)
        return await _not_ready(row, parts_of(row, self.parts))

    def _release(self, wanted: str | None) -> str:
        """Return the release to upgrade to; Impossible if there is none such."""
        known = self.releases()
        if wanted is not None and wanted not in known:
            raise Impossible(f"there is no release {wanted} at the target {self.name}, but {', '.join(known)}")
        return wanted or known[0]

    def _wished(self, row: Any, deployment: Any) -> "_Instances":
        """Return what instances a tenant is to have after this deployment; Impossible if it can't."""
        request, before = deployment["request"], row["before"]
        now = _Instances(row["release"], row["instances"], row["generation"])
        match deployment["operation"]:
            case "scale":
                return now._replace(instances=request["instances"])
            case "upgrade":
                return now._replace(release=self._release(request.get("release")), generation=now.generation + 1)
            case _ if before is None:
                raise Impossible("there is nothing to go back to: its instances were never replaced")
            case _:
                return _Instances(before["release"], before["instances"], now.generation + 1)

    async def _replace(self, service: Service, deployment: Any, command: Command) -> str | None:
        """Have a tenant's requests go to other instances, once these are ready, and those that it had end.

        Restored are those that it had before the deployment, if that has replaced them.
        """
        row = await self._chosen(service, deployment, command)
        if row is None:
            return None
        service.wake(SUPERVISOR)
        if wrong := await _not_ready(row, parts_of(row, self.parts)):
            return wrong
        if row["serving"] != instances_of(row):
            chosen = "serving = $2, served_since = $3 where tenant_id = $1"
            await rerouted(service, deployment, chosen, instances_of(row), service.clock.now())
        if left := row["pids"].keys() - set(parts_of(row, self.parts)):
            return f"there run still: {', '.join(sorted(left))}"
        return None

    async def _chosen(self, service: Service, deployment: Any, command: Command) -> Any:
        """Return a tenant's row, in which other instances are chosen once; None where there is nothing to restore."""
        tenant_id, back = deployment["tenant_id"], command is Command.RESTORE_INSTANCES
        async with service.consumer_db.for_tenants([tenant_id]) as tx:
            row = await tx.fetchrow("select * from instance where tenant_id = $1 for update", tenant_id)
            assert row is not None, "it was deployed"
            if row["changed_by"] == _mark(deployment, command):
                return row
            if back and row["changed_by"] != _mark(deployment, Command.REPLACE_INSTANCES):
                return None
            return await tx.fetchrow(
                _REPLACE,
                tenant_id,
                deployment["deployment_id"],
                *(_before(row) if back else self._wished(row, deployment)),
                _remembered(row, back=back),
                _mark(deployment, command),
                serving(row),
            )

    async def _stop(self, service: Service, tenant_id: UUID) -> str | None:
        async with service.consumer_db.for_tenants([tenant_id]) as tx:
            pids = await tx.fetchval(
                "update instance set wanted = false where tenant_id = $1 returning pids", tenant_id
            )
        service.wake(SUPERVISOR)
        if pids:
            return f"there run still: {', '.join(sorted(pids))}"
        settings = service.settings
        left = await forget_groups(
            settings.kafka_bootstrap_servers, f"-{tenant_id}", security=client_security(settings)
        )
        return f"consumer groups have members still: {', '.join(left)}" if left else None


class _Instances(NamedTuple):
    """What instances a tenant has: of which release, how many of each service, and the how manieth ones they are."""

    release: str | None
    instances: int
    generation: int


def _mark(deployment: Any, command: Command) -> str:
    return f"{deployment['deployment_id']} {command}"


def _before(row: Any) -> _Instances:
    """Return the instances that a tenant had before they were replaced."""
    before = row["before"]
    same = before["release"] == row["release"]
    return _Instances(before["release"], before["instances"], row["generation"] + (not same))


def _remembered(row: Any, *, back: bool) -> dict[str, Any] | None:
    """Return what there was before, with what was before that: to be gone back to where this fails."""
    known: dict[str, Any] | None = row["before"]
    if back:
        return known["before"] if known else None
    earlier = {**known, "before": None} if known else None
    return {"release": row["release"], "instances": row["instances"], "before": earlier}


async def _not_ready(row: Any, parts: Sequence[str]) -> str | None:
    """Return what of a tenant's does not run yet, or is not ready."""
    if missing := [part for part in parts if not row["pids"].get(part)]:
        return f"{', '.join(missing)} did not start yet"
    timeout = aiohttp.ClientTimeout(total=_READY_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for part, address in addresses_of(row, instances_of(row)).items():
            async with session.get(f"{address}/health/ready") as answer:
                if answer.status != 200:
                    return f"{part} is not ready: {await answer.text()}"
    return None


async def rerouted(service: Service, deployment: Any, change: str, *args: Any) -> Any:
    """Change a tenant's row of `instance`, and tell where its requests go now; return the row, if there is one.

    change: what to set, and where; `$1` is the tenant, and others follow. Whoever has lost the deployment to another
    worker without knowing changes nothing.
    """
    tenant_id = deployment["tenant_id"]
    held = "exists (select from deployment where deployment_id = ${} and lease = ${})"
    held = held.format(len(args) + 2, len(args) + 3)
    async with service.consumer_db.for_tenants([tenant_id]) as tx:
        row = await tx.fetchrow(
            f"update instance set version = version + 1, {change} and {held} returning *",
            tenant_id,
            *args,
            deployment["deployment_id"],
            deployment["lease"],
        )
        if row is not None:
            outgoing = [Outgoing(route_of(row), row["version"], cause_of(deployment))]
            await publish(tx, outgoing, source=service.source, clock=service.clock)
    return row
