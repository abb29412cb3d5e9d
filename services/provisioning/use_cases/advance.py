"""Save a saga's next state and do what it asks, in one transaction."""

from datetime import timedelta
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
from services.provisioning.domain.saga import Command, Saga
from services.provisioning.tables import stored_steps
from services.provisioning.targets import pooled


async def advance(
    tx: Transaction,
    service: Service,
    row: Any,
    saga: Saga,
    cause: Envelope | None = None,
    retry: timedelta | None = None,
) -> None:
    """Store the saga over the locked `row`, and publish the events of its commands.

    retry: when the worker is to look at the step under way again; by default at once for its own steps.
    """
    now = service.clock.now()
    placement = row["placement"]
    if Command.ALLOCATE in saga.commands:
        placement = pooled.PLACEMENT
        saga = saga.answered("allocate", "self", now)
    current = saga.current
    check = saga.deadline
    if current is not None and current.waiting_for == {"self"}:
        check = now + (retry or timedelta())
    events = [event for command in saga.commands if (event := _event(command, row, saga))]
    version: int = row["version"] + len(events)
    await tx.execute(
        "update deployment set status = $3, steps = $4, reason = $5, placement = $6, next_check_at = $7,"
        " version = $8, updated_at = $9 where tenant_id = $1 and deployment_id = $2",
        row["tenant_id"],
        row["deployment_id"],
        saga.status,
        stored_steps(saga),
        saga.reason,
        placement,
        check,
        version,
        now,
    )
    first = row["version"] + 1
    outgoing = [Outgoing(event, first + index, cause) for index, event in enumerate(events)]
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
            step = next(step.name for step in saga.steps if step.status == "failed")
            return DeploymentFailed(**ids, step=step, reason=saga.reason or "")
        case Command.ALLOCATE | Command.VERIFY:
            return None  # its own work
