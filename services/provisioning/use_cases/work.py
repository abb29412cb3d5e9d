"""The steps that provisioning does itself, and the end of those that take too long.

Who works on a deployment holds a lease on it, and renews it while it lives: when a process dies, another one takes the
deployment over once the lease has ended. What was done twice so has happened once: every step is idempotent.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from chassis.ids import new_id
from chassis.messaging.consumer import TRANSIENT
from chassis.service import Service
from chassis.telemetry import traces
from chassis.worker import Worker
from services.provisioning import access, moves
from services.provisioning.domain.saga import OF_MOVES, OF_TARGETS, Command, Impossible, Saga, Step
from services.provisioning.settings import DeploymentSettings
from services.provisioning.tables import COLUMNS, cause_of, lock_deployments, saga_of
from services.provisioning.targets import TARGETS
from services.provisioning.use_cases.advance import DEPLOYER, Unfolding, save
from services.provisioning.use_cases.queue import admit

log = structlog.get_logger()

_HANDS = 20
"""Deployments that a process works on at once at each target, in steps of its own: where one is slow, as an engine that
does not answer, the others go on."""
_DUE = """
select due.* from unnest($2::text[], $3::int[]) as t (target, free) cross join lateral (
    select tenant_id, deployment_id from deployment d where d.target = t.target and d.next_check_at <= $1
        and coalesce(d.leased_until <= $1, true) and d.deployment_id <> all($4::uuid[])
    order by d.next_check_at limit t.free
) as due
"""


class Verdict(NamedTuple):
    """What came of a step that was worked on: its name, how it stood when that began, and what is wrong if anything."""

    name: str
    status: str
    wrong: str | None
    for_good: bool = False
    """Whether to try it again would change nothing."""


class Deployer(Worker):
    """Starts deployments whose turn it is, and works on those that are due, each in a task of its own."""

    def __init__(self, service: Service, settings: DeploymentSettings) -> None:
        super().__init__(DEPLOYER, self._take_up, poll_seconds=0.5)
        self._service = service
        self._settings = settings
        self._lease = new_id()
        self._lease_time = timedelta(seconds=settings.lease_seconds)
        self._running: dict[UUID, asyncio.Task[None]] = {}
        self._rows: dict[UUID, Any] = {}
        self._heart: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._heart = asyncio.create_task(self._beat(), name="deployments-heartbeat")
        super().start()

    async def stop(self) -> None:
        """Break off what is being done, and leave it to whoever comes next."""
        await super().stop()
        tasks = [*self._running.values(), *([self._heart] if self._heart else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_up(self) -> bool:
        admitted = await admit(self._service, self._settings.places)
        busy = Counter(row["target"] for row in self._rows.values())
        for row in await self._leased({target: _HANDS - busy[target] for target in TARGETS}):
            deployment_id = row["deployment_id"]
            self._rows[deployment_id] = row
            task = asyncio.create_task(self._work(row), name=f"deployment-{deployment_id}")
            self._running[deployment_id] = task
        return admitted > 0

    async def _leased(self, most: Mapping[str, int]) -> list[Any]:
        """Take up the deployments at each target that are due the longest, and that nobody works on."""
        now = self._service.clock.now()
        async with self._service.consumer_db.unscoped() as tx:
            due = await tx.fetch(_DUE, now, list(most), list(most.values()), list(self._running))
            if not due:
                return []
            await tx.set_tenants(row["tenant_id"] for row in due)
            return await tx.fetch(
                "update deployment set lease = $3, leased_until = $4 where tenant_id = any($1::uuid[])"
                " and deployment_id = any($2::uuid[]) and next_check_at <= $5 and coalesce(leased_until <= $5, true)"
                f" returning {COLUMNS}",
                [row["tenant_id"] for row in due],
                [row["deployment_id"] for row in due],
                self._lease,
                now + self._lease_time,
                now,
            )

    async def _beat(self) -> None:
        """Renew the leases of what is being worked on; what another one has taken over, or may have, is let go."""
        renewed, seconds = time.monotonic(), self._lease_time.total_seconds()
        while True:
            await asyncio.sleep(seconds / 3)
            mine = {deployment_id: row["tenant_id"] for deployment_id, row in self._rows.items()}
            if not mine:
                renewed = time.monotonic()
                continue
            try:
                async with self._service.consumer_db.for_tenants(set(mine.values())) as tx:
                    kept = await tx.fetch(
                        "update deployment set leased_until = $4 where tenant_id = any($1::uuid[])"
                        " and deployment_id = any($2::uuid[]) and lease = $3 and leased_until is not null"
                        " returning deployment_id",
                        list(mine.values()),
                        list(mine),
                        self._lease,
                        self._service.clock.now() + self._lease_time,
                    )
            except TRANSIENT as error:
                log.warning("deployment_leases_not_renewed", error=repr(error))
                if time.monotonic() - renewed > seconds:
                    for task in self._running.values():
                        task.cancel()
                continue
            renewed = time.monotonic()
            for deployment_id in mine.keys() - {row["deployment_id"] for row in kept}:
                if deployment_id in self._running:
                    self._running[deployment_id].cancel()

    async def _work(self, row: Any) -> None:
        deployment_id = row["deployment_id"]
        try:
            await self._conclude(row, await self._looked_at(row))
        except Exception as error:  # the lease ends by itself, and then it is tried again
            log.exception("deployment_not_worked_on", deployment_id=str(deployment_id), error=repr(error))
        finally:
            del self._running[deployment_id], self._rows[deployment_id]
            self.wake()

    async def _looked_at(self, row: Any) -> Verdict | None:
        """Do, undo or look at the step that is under way; None at others' steps."""
        saga = saga_of(row)
        step = saga.current
        work = _own_work(self._service, row, saga, step) if step else None
        if step is None or work is None:
            return None
        cause = cause_of(row)
        attributes = {traces.TENANT: str(row["tenant_id"]), "dotmac.deployment.id": str(row["deployment_id"])}
        verb = step.name.partition("_")[0]
        with traces.span(f"{verb} a deployment", attributes, parent=cause.traceparent if cause else None):
            try:
                async with asyncio.timeout(saga.recipe(step.name).timeout.total_seconds()):
                    return Verdict(step.name, step.status, await work)
            except Impossible as error:
                return Verdict(step.name, step.status, str(error), for_good=True)
            except TRANSIENT as error:
                return Verdict(step.name, step.status, str(error) or type(error).__name__)
            except Exception as error:  # nobody expected it, and still the step's time passes
                log.exception("step_not_done", deployment_id=str(row["deployment_id"]), step=step.name)
                return Verdict(step.name, step.status, repr(error))

    async def _conclude(self, row: Any, verdict: Verdict | None) -> None:
        """Move the deployment on, if nobody has taken it over meanwhile."""
        tenants, now = [row["tenant_id"]], self._service.clock.now()
        async with self._service.consumer_db.for_tenants(tenants) as tx:
            for locked in await lock_deployments(tx, tenants, [row["deployment_id"]]):
                if locked["lease"] == self._lease:
                    item = Unfolding(locked)
                    item.move(_next(item.saga, verdict, now), now)
                    await save(tx, self._service, [item], looked=True)


def _next(saga: Saga, verdict: Verdict | None, now: datetime) -> Saga:
    """Return what a look at a deployment leads to; what was done may not be what it is at any more."""
    step = saga.current
    if step is not None and step.status == "running" and step.until is not None and step.until <= now:
        return saga.done(step.name, "self", now)
    if verdict is None or step is None or (step.name, step.status) != (verdict.name, verdict.status):
        return saga.timed_out(now)
    if verdict.for_good and step.status == "running":
        return saga.failed(step.name, verdict.wrong or "", now)
    if verdict.wrong:
        return saga.noted(step.name, verdict.wrong).timed_out(now)
    return saga.done(step.name, "self", now) if step.status == "running" else saga.undone(step.name, "self", now)


def _own_work(service: Service, row: Any, saga: Saga, step: Step) -> Awaitable[str | None] | None:
    """Return what provisioning does for a step, which gives what is wrong if anything; None at others' steps."""
    recipe = saga.recipe(step.name)
    command = recipe.do if step.status == "running" else recipe.undo
    match command:
        case Command.VERIFY:
            return access.verify(service.settings, row["tenant_id"])
        case Command.VERIFY_OPEN:
            return access.verify_open(service.settings, row["tenant_id"])
        case Command.VERIFY_CLOSED:
            return access.verify_closed(service.settings, row["tenant_id"], recipe.status or "")
        case command if command in OF_TARGETS:
            return TARGETS[saga.place].do(service, row, command)
        case command if command in OF_MOVES:
            return moves.do(service, row, command)
        case _:
            return None
