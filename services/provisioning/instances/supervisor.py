"""The supervisor has each tenant's instances be as the records want them, whatever they run in.

There is one in the platform at a time. A tenant is seen to in a task of its own, so that none waits for another's.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import LOST, close
from chassis.service import Service
from chassis.worker import Worker
from services.provisioning.instances import (
    STARTING,
    Host,
    Instance,
    InstanceError,
    instances_of,
    parts_of,
    route_of,
    serving,
)

log = structlog.get_logger()

SUPERVISOR = "instances"
"""The worker's name."""
_LOCK = 7_305_811_009  # advisory: one supervisor at a time
_POLL_SECONDS = 0.5
_LOST_SECONDS = 2.0
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 10.0
_STABLE_SECONDS = 30.0
_AT_ONCE = os.cpu_count() or 1
"""The tenants whose instances start at once. To start is work for a processor alone: more of them would only make each
wait for all, and take the time of those that serve."""
_START_SECONDS, _START_POLL_SECONDS = 15.0, 0.05
"""For how long one that does not come keeps the others waiting, and how often it is looked at."""

_UNDER_WAY = """
select distinct tenant_id from deployment
where tenant_id = any($1::uuid[]) and status not in ('succeeded', 'failed')
"""
_RECORD = """
update instance set ports = $2, hosts = $3, pids = $4::jsonb, version = version + $5
where tenant_id = $1 and (wanted or $4::jsonb = '{}') returning *
"""


class Supervisor(Worker):
    """Starts what is wanted, and ends what is not."""

    def __init__(self, service: Service, hosts: Mapping[str, Host], settle_seconds: float) -> None:
        """`hosts`: what instances run in, by target. `settle_seconds`: how long one is kept to which no route leads."""
        super().__init__(SUPERVISOR, self._look, poll_seconds=_POLL_SECONDS)
        self._service = service
        self._hosts = hosts
        self._settle = timedelta(seconds=settle_seconds)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._unseen: set[str] = set()
        self._patience: dict[UUID, _Patience] = {}
        self._connection: asyncpg.Connection[Any] | None = None
        self._leads = False

    async def stop(self) -> None:
        """End what must not outlive it."""
        await super().stop()
        await self._let_go()
        if self._connection is not None:
            await close(self._connection)

    async def _let_go(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(host.let_go() for host in self._hosts.values()))

    async def _look(self) -> bool:
        led = self._leads
        if not await self._is_leader():
            await self._let_go()
            return False
        if not led:
            await self._get_ready()
        for target, host in self._hosts.items():
            try:
                await self._look_at(target, host)
                self._unseen.discard(target)
            except InstanceError as error:  # what one target lacks is no other's trouble
                if target not in self._unseen:
                    log.warning("instances_not_looked_at", target=target, error=str(error))
                self._unseen.add(target)
        return False

    async def _get_ready(self) -> None:
        for target, host in self._hosts.items():
            try:
                await host.get_ready()
            except InstanceError as error:  # what starts there will say so as well
                log.warning("target_not_ready", target=target, error=str(error))

    async def _look_at(self, target: str, host: Host) -> None:
        busy = set(self._tasks)  # before it is looked: what is seen of these is not so any more when it is decided
        found = await host.running()
        async with self._service.consumer_db.unscoped() as tx:
            rows = await tx.fetch("select * from instance where target = $1 and (wanted or pids <> '{}')", target)
            known = {row["tenant_id"] for row in rows}
            strange = list(found.keys() - known - busy)
            under_way = {row["tenant_id"] for row in await tx.fetch(_UNDER_WAY, strange)} if strange else set()
        for row in rows:
            there = found.get(row["tenant_id"], {})
            if row["tenant_id"] not in busy and not _is_so(host, row, there):
                self._begin(row["tenant_id"], partial(self._see_to, host, row, there))
        for tenant_id in set(strange) - under_way:
            self._begin(tenant_id, partial(self._remove, host, tenant_id, found[tenant_id]))

    def _begin(self, tenant_id: UUID, work: Callable[[], Awaitable[None]]) -> None:
        async def done() -> None:
            try:
                await work()
            except (*LOST, InstanceError) as error:  # what one tenant lacks is no other's trouble
                log.warning("instances_not_seen_to", tenant_id=str(tenant_id), error=str(error) or repr(error))
            except Exception as error:
                log.exception("instances_not_seen_to", tenant_id=str(tenant_id), error=repr(error))

        task = self._tasks[tenant_id] = asyncio.create_task(done(), name=f"instances-{tenant_id}")
        task.add_done_callback(lambda _: self._tasks.pop(tenant_id, None))

    async def _see_to(self, host: Host, row: Any, there: Mapping[str, Instance]) -> None:
        """Have a tenant's instances be as they are wanted, and record which they are."""
        tenant_id = row["tenant_id"]
        if not row["wanted"]:
            await host.stop(tenant_id, there)
            self._patience.pop(tenant_id, None)
            await self._record(row, {})
            return
        wanted, running = parts_of(row, host.parts), _alive(there)
        if missing := [part for part in wanted if part not in running]:
            patience = self._patience.setdefault(tenant_id, _Patience())
            if not patience.is_over():
                return
            async with self._turns:
                # Before they are there: who wants them no more waits for those that are recorded to be gone.
                row = await self._record(row, {**running, **{part: Instance(STARTING) for part in missing}})
                if row is None:
                    return
                patience.try_again()
                running = {**running, **await host.start(tenant_id, missing, row["ports"], row["release"])}
                await _listen([running[part] for part in missing if part in running])
        replaced = {part: each for part, each in there.items() if part not in wanted}
        if replaced and self._are_left(row, replaced):
            await host.stop(tenant_id, replaced)
            running = {part: each for part, each in running.items() if part in wanted}
        await self._record(row, running)

    def _are_left(self, row: Any, replaced: Collection[str]) -> bool:
        """Whether no route has led to these for so long that nobody asks them any more."""
        since = row["served_since"]
        left = since is None or self._service.clock.now() - since >= self._settle
        return left and not set(replaced) & set(serving(row))

    async def _remove(self, host: Host, tenant_id: UUID, running: Mapping[str, Instance]) -> None:
        """End what runs for a tenant of which nothing is wanted."""
        log.warning("instances_of_nobody", tenant_id=str(tenant_id), parts=sorted(running))
        await host.stop(tenant_id, running)

    async def _record(self, row: Any, running: Mapping[str, Instance]) -> Any:
        """Record what runs of a tenant, and tell of other addresses if it is routed; None if it is not wanted now."""
        ports, hosts = _addresses(row, running)
        moved = row["routed"] and route_of(row) != route_of({**row, "ports": ports, "hosts": hosts})
        pids = {part: instance.known_by for part, instance in running.items()}
        async with self._service.consumer_db.for_tenants([row["tenant_id"]]) as tx:
            now = await tx.fetchrow(_RECORD, row["tenant_id"], ports, hosts, pids, int(moved))
            if moved and now is not None:
                told = [Outgoing(route_of(now), now["version"])]
                await publish(tx, told, source=self._service.source, clock=self._service.clock)
        return now

    async def _is_leader(self) -> bool:
        """Whether no other process supervises; the lock lives as long as the connection."""
        try:
            if self._connection is None:
                url = self._service.settings.consumer_database_url
                self._leads = False
                self._connection = await asyncpg.connect(
                    url, timeout=_LOST_SECONDS, server_settings={"application_name": "provisioning-supervisor"}
                )
            if self._leads:
                await self._connection.execute("select 1", timeout=_LOST_SECONDS)
            else:
                self._leads = await self._connection.fetchval("select pg_try_advisory_lock($1)", _LOCK)
        except LOST:
            # The instances stay: the database is away for them as well, and nobody else can take the lead meanwhile.
            if self._connection is not None:
                await close(self._connection)
                self._connection = None
            raise
        return self._leads


class _Patience:
    """For how long what ends again and again is left, before it is started once more."""

    def __init__(self) -> None:
        self._backoff = self._since = 0.0

    def is_over(self) -> bool:
        """Whether it may be started now."""
        return time.monotonic() >= self._since + self._backoff

    def try_again(self) -> None:
        """It is started now: if it was lately as well, it is left longer the next time."""
        now = time.monotonic()
        stable = now - self._since > _STABLE_SECONDS
        self._backoff = 0.0 if stable else min(max(2 * self._backoff, _FIRST_BACKOFF_SECONDS), _LONGEST_BACKOFF_SECONDS)
        self._since = now


async def _listen(started: Collection[Instance]) -> None:
    """Return once these take connections, or have had their time to."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            for instance in started:
                while instance.port is not None and not await _takes_connections(instance):
                    await asyncio.sleep(_START_POLL_SECONDS)
    except TimeoutError:
        pass  # what waits for them says so


async def _takes_connections(instance: Instance) -> bool:
    try:
        _, writer = await asyncio.open_connection(instance.host, instance.port)
    except OSError:
        return False
    writer.close()
    return True


def _alive(there: Mapping[str, Instance]) -> dict[str, Instance]:
    return {part: instance for part, instance in there.items() if instance.alive}


def _is_so(host: Host, row: Any, there: Mapping[str, Instance]) -> bool:
    """Whether a tenant's instances are as they are wanted, and recorded."""
    if not row["wanted"] or set(parts_of(row, host.parts)) != there.keys() or len(_alive(there)) < len(there):
        return False
    pids = {part: instance.known_by for part, instance in there.items()}
    return pids == row["pids"] and _addresses(row, there) == (row["ports"], row["hosts"])


def _addresses(row: Any, running: Mapping[str, Instance]) -> tuple[dict[str, int], dict[str, str]]:
    """Return the ports and the hosts to record: of those that are not there, where they were."""
    at = {part: instance for part, instance in running.items() if instance.port is not None}
    known = {*running, *instances_of(row), *serving(row)}
    ports = {**row["ports"], **{part: instance.port for part, instance in at.items()}}
    hosts = {**row["hosts"], **{part: instance.host for part, instance in at.items()}}
    return (
        {part: port for part, port in ports.items() if part in known},
        {part: host for part, host in hosts.items() if part in known},
    )
