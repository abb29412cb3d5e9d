"""Move deployments on: save each saga's next state and publish what it asks for, in one transaction."""

from collections.abc import Sequence
from dataclasses import replace
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
    DeploymentFailed,
    DeploymentStarted,
    DeploymentSucceeded,
    WorkspaceRemovalRequested,
    WorkspaceRequested,
)
from services.provisioning import metrics
from services.provisioning.domain.saga import Command, Saga
from services.provisioning.tables import cause_of, saga_of, stored_cause, stored_steps
from services.provisioning.targets import pooled


class Unfolding:
    """A locked deployment while it moves on: its saga, and the events of its moves, numbered."""

    def __init__(self, row: Any) -> None:
        self.row = row
        self.saga = saga_of(row)
        self.version: int = row["version"]
        self.placement: str | None = row["placement"]
        self.cause = cause_of(row)
        self.outgoing: list[Outgoing] = []

    def move(self, saga: Saga, now: datetime, cause: Envelope | None = None) -> None:
        """Take a next state of the saga, and do what it asks; without a cause of its own it follows from the last."""
        if cause is not None and saga is not self.saga:
            self.cause = cause
        if Command.ALLOCATE in saga.commands:
            self.placement = pooled.PLACEMENT
            saga = saga.done("allocate", "self", now)
        for command in saga.commands:
            event = _event(command, self.row, saga)
            if event is not None:
                self.version += 1
                self.outgoing.append(Outgoing(event, self.version, self.cause))
        self.saga = replace(saga, commands=())

    def check_at(self, now: datetime, retry: timedelta) -> datetime | None:
        """When the worker is to look at it: soon for a step of its own, else when the step's time is over."""
        step = self.saga.current
        return now + retry if step is not None and step.waiting_for == {"self"} else self.saga.deadline


async def save(
    tx: Transaction, service: Service, unfoldings: Sequence[Unfolding], retry: timedelta = timedelta()
) -> None:
    """Save deployments and publish their events. `retry`: until the worker looks again at a step of its own."""
    now = service.clock.now()
    await tx.execute(
        "update deployment d set status = x.status, steps = x.steps::jsonb, failed_step = x.failed_step,"
        " reason = x.reason, placement = x.placement, next_check_at = x.check_at, version = x.version,"
        " cause = x.cause::jsonb, updated_at = $1"
        " from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],"
        " $9::timestamptz[], $10::int[], $11::text[])"
        " as x (tenant_id, deployment_id, status, steps, failed_step, reason, placement, check_at, version, cause)"
        " where d.tenant_id = x.tenant_id and d.deployment_id = x.deployment_id",
        now,
        [item.row["tenant_id"] for item in unfoldings],
        [item.row["deployment_id"] for item in unfoldings],
        [item.saga.status for item in unfoldings],
        [stored_steps(item.saga) for item in unfoldings],
        [item.saga.failed_step for item in unfoldings],
        [item.saga.reason for item in unfoldings],
        [item.placement for item in unfoldings],
        [item.check_at(now, retry) for item in unfoldings],
        [item.version for item in unfoldings],
        [stored_cause(item.cause) for item in unfoldings],
    )
    for item in unfoldings:
        if item.saga.status in metrics.OUTCOMES and item.row["status"] not in metrics.OUTCOMES:
            metrics.ended(tx, item.saga, now - item.row["created_at"])
    if any(item.check_at(now, retry) == now for item in unfoldings):
        tx.after_commit(partial(service.wake, "deployments"))
    outgoing = [event for item in unfoldings for event in item.outgoing]
    await publish(tx, outgoing, source=service.source, clock=service.clock)


def _event(command: Command, row: Any, saga: Saga) -> Event | None:
    ids: dict[str, UUID] = {"deployment_id": row["deployment_id"], "tenant_id": row["tenant_id"]}
    request = row["request"]
    place = {name: request[name] for name in ("name", "currency", "country", "time_zone")}
    match command:
        case Command.START:
            return DeploymentStarted(**ids, target=request["target"])
        case Command.REQUEST_WORKSPACES:
            return WorkspaceRequested(**ids, **place)
        case Command.REQUEST_ADMINISTRATOR:
            return AdministratorRequested(**ids, email=request["administrator_email"])
        case Command.REMOVE_WORKSPACES:
            return WorkspaceRemovalRequested(**ids)
        case Command.REMOVE_ADMINISTRATOR:
            return AdministratorRemovalRequested(**ids)
        case Command.TELL_SUCCESS:
            return DeploymentSucceeded(**ids)
        case Command.TELL_FAILURE:
            return DeploymentFailed(**ids, step=saga.failed_step or "", reason=saga.reason or "")
        case Command.ALLOCATE | Command.VERIFY:
            return None  # its own work
