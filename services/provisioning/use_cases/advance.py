"""Move deployments on: save each saga's next state and publish what it asks for, in one transaction."""

import asyncio
from collections.abc import Sequence
from dataclasses import astuple, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.envelope import Envelope, Event
from dotmac_contracts.provisioning import (
    AdministratorRemovalRequested,
    AdministratorRequested,
    DataDeletionRequested,
    DataExportRequested,
    DeploymentFailed,
    DeploymentStarted,
    DeploymentSucceeded,
    TenantTransitionRequested,
    TenantTransitionReversalRequested,
    WorkspaceRemovalRequested,
    WorkspaceRequested,
)
from services.provisioning import metrics, moves
from services.provisioning.domain.progress import Entry, between
from services.provisioning.domain.saga import OF_MOVES, OF_TARGETS, Command, Saga
from services.provisioning.tables import cause_of, saga_of, stored_actor, stored_cause, stored_steps
from services.provisioning.targets import TARGETS

DEPLOYER = "deployments"
"""The worker's name."""
PROGRESS_CHANNEL = "deployment_progress"
"""On which whoever follows a deployment is woken, by its id."""
ENDED = ("succeeded", "failed")

_SHORTEST_RETRY = timedelta(milliseconds=30)
_LONGEST_RETRY = timedelta(seconds=1)


def _wake_in(delay: timedelta, service: Service) -> None:
    asyncio.get_running_loop().call_later(max(0.0, delay.total_seconds()), service.wake, DEPLOYER)


class Unfolding:
    """A locked deployment while it moves on: its saga, and the events of its moves, numbered."""

    def __init__(self, row: Any) -> None:
        self.row = row
        self.saga = saga_of(row)
        self.version: int = row["version"]
        self.placement: str | None = row["placement"]
        self.cause = cause_of(row)
        self.outgoing: list[Outgoing] = []
        self.log: list[Entry] = []

    def move(self, saga: Saga, now: datetime, cause: Envelope | None = None) -> None:
        """Take a next state of the saga, and do what it asks; without a cause of its own it follows from the last."""
        if cause is not None and saga is not self.saga:
            self.cause = cause
        before = self.saga
        if Command.ALLOCATE in saga.commands:
            target = TARGETS[saga.target]
            refusal = moves.refusal(saga.place) if saga.operation == "move" else target.refusal()
            self.placement = target.placement(self.row["tenant_id"])
            saga = saga.failed("allocate", refusal, now) if refusal else saga.done("allocate", "self", now)
        for command in saga.commands:
            self._do(command, saga)
        self.saga = replace(saga, commands=())
        self.log += between(before, self.saga)

    def tell_again(self) -> None:
        """Tell its end once more, for those who have not heard of it."""
        self._do(Command.TELL_SUCCESS if self.saga.status == "succeeded" else Command.TELL_FAILURE, self.saga)
        self.log.append(Entry(None, self.saga.status, "its end is told again"))

    def _do(self, command: Command, saga: Saga) -> None:
        event = _event(command, self.row, saga)
        if event is not None:
            self.version += 1
            self.outgoing.append(Outgoing(event, self.version, self.cause))

    def check_at(self, now: datetime, looked: bool) -> datetime | None:
        """When the worker is to look at it: soon for a step of its own, else when the step's time is over."""
        step = self.saga.current
        if step is not None and step.until is not None and step.status == "running":
            return step.until
        if step is None or step.waiting_for != {"self"}:
            return self.saga.deadline
        if not looked or step.since is None or step.since == now:
            return now
        # What has not been well for long is looked at less often.
        return now + min(max((now - step.since) / 2, _SHORTEST_RETRY), _LONGEST_RETRY)


async def save(tx: Transaction, service: Service, unfoldings: Sequence[Unfolding], *, looked: bool = False) -> None:
    """Save deployments and publish their events.

    looked: whether the worker just looked at those steps of its own, and so gives its leases back.
    """
    now = service.clock.now()
    checks = [item.check_at(now, looked) for item in unfoldings]
    await tx.execute(
        "update deployment d set status = x.status, steps = x.steps::jsonb, failed_step = x.failed_step,"
        " reason = x.reason, placement = x.placement, next_check_at = x.check_at, version = x.version,"
        " cause = x.cause::jsonb, actor = x.actor, log_position = log_position + x.entries, updated_at = $1,"
        " leased_until = case when $12 then null else leased_until end,"
        " queued_at = case when x.status = 'queued' and d.status <> 'queued' then $1 else queued_at end,"
        " started_at = case when x.status = 'running' and d.status = 'queued' then $1 else started_at end"
        " from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],"
        " $9::timestamptz[], $10::int[], $11::text[], $13::int[],"
        " $14::text[]) as x (tenant_id, deployment_id, status, steps, failed_step, reason, placement, check_at,"
        " version, cause, entries, actor)"
        " where d.tenant_id = x.tenant_id and d.deployment_id = x.deployment_id",
        now,
        [item.row["tenant_id"] for item in unfoldings],
        [item.row["deployment_id"] for item in unfoldings],
        [item.saga.status for item in unfoldings],
        [stored_steps(item.saga) for item in unfoldings],
        [item.saga.failed_step for item in unfoldings],
        [item.saga.reason for item in unfoldings],
        [item.placement for item in unfoldings],
        checks,
        [item.version for item in unfoldings],
        [stored_cause(item.cause) for item in unfoldings],
        looked,
        [len(item.log) for item in unfoldings],
        [stored_actor(item.cause) for item in unfoldings],
    )
    await _keep_log(tx, now, unfoldings)
    over = [item for item in unfoldings if item.saga.status in ENDED and item.row["status"] not in ENDED]
    for item in over:
        metrics.ended(tx, item.saga, now - item.row["created_at"])
    soonest = min((check - now for check in checks if check is not None), default=_LONGEST_RETRY)
    if over or any(item.saga.status == "queued" for item in unfoldings):
        soonest = timedelta()  # the next one in the queue has its turn
    if soonest < _LONGEST_RETRY:
        tx.after_commit(partial(_wake_in, soonest, service))
    outgoing = [event for item in unfoldings for event in item.outgoing]
    await publish(tx, outgoing, source=service.source, clock=service.clock)


async def _keep_log(tx: Transaction, now: datetime, unfoldings: Sequence[Unfolding]) -> None:
    rows = [
        (item.row["tenant_id"], item.row["deployment_id"], item.row["log_position"] + number, *astuple(entry))
        for item in unfoldings
        for number, entry in enumerate(item.log, 1)
    ]
    if not rows:
        return
    columns = list(zip(*rows, strict=True))
    await tx.execute(
        "insert into deployment_log (tenant_id, deployment_id, position, made_at, step, status, message)"
        " select t, d, p, $1, s, w, m from unnest($2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::text[],"
        " $7::text[]) as x (t, d, p, s, w, m)",
        now,
        *columns,
    )
    tx.wake(PROGRESS_CHANNEL, columns[1])


def _event(command: Command, row: Any, saga: Saga) -> Event | None:
    ids: dict[str, UUID] = {"deployment_id": row["deployment_id"], "tenant_id": row["tenant_id"]}
    request = row["request"]
    whose = {"dedicated": TARGETS[row["target"]].dedicated}
    place = {name: request[name] for name in ("name", "currency", "country", "time_zone")}
    match command:
        case Command.START:
            where = {name: request.get(name) for name in ("target", "dedicated_target")}
            return DeploymentStarted(**ids, **where, operation=saga.operation)
        case Command.REQUEST_WORKSPACES:
            return WorkspaceRequested(**ids, **whose, **place, parameters=request.get("parameters"))
        case Command.REQUEST_ADMINISTRATOR:
            return AdministratorRequested(**ids, email=request["administrator_email"])
        case Command.REMOVE_WORKSPACES:
            return WorkspaceRemovalRequested(**ids, **whose)
        case Command.REMOVE_ADMINISTRATOR:
            return AdministratorRemovalRequested(**ids)
        case Command.REQUEST_TRANSITION:
            step = _step_at(saga)
            return TenantTransitionRequested(
                **ids, step=step, status=saga.recipe(step).status or "", reason=request.get("reason")
            )
        case Command.REVERSE_TRANSITION:
            return TenantTransitionReversalRequested(**ids, step=_step_at(saga))
        case Command.REQUEST_EXPORT:
            return DataExportRequested(**ids, **whose)
        case Command.REQUEST_DELETION:
            return DataDeletionRequested(**ids, **whose, step=_step_at(saga))
        case Command.TELL_SUCCESS:
            return DeploymentSucceeded(**ids)
        case Command.TELL_FAILURE:
            why = {"step": saga.failed_step or "", "reason": saga.reason or "", "irrevocable": saga.is_final}
            return DeploymentFailed(**ids, **why)
        case Command.ALLOCATE | Command.WAIT | Command.VERIFY | Command.VERIFY_CLOSED | Command.VERIFY_OPEN:
            return None  # its own work
        case command if command in OF_TARGETS | OF_MOVES:
            return None  # its target's, or that of both its places
        case _:
            raise AssertionError(f"nobody knows {command}")


def _step_at(saga: Saga) -> str:
    step = saga.current
    assert step is not None, "a command is that of the current step"
    return step.name
