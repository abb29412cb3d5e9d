"""Storage of deployments."""

from datetime import datetime
from typing import Any
from uuid import UUID

from chassis.persistence.database import Transaction
from services.provisioning.domain.saga import Saga, Step

COLUMNS = "tenant_id, deployment_id, target, status, request, steps, reason, placement, version, created_at, updated_at"


def saga_of(row: Any) -> Saga:
    """Return the saga in a row of `deployment`."""
    return Saga(row["target"], tuple(_step(step) for step in row["steps"]), row["status"], row["reason"])


def _step(stored: dict[str, Any]) -> Step:
    return Step(
        stored["name"],
        stored["status"],
        frozenset(stored["waiting_for"]),
        _time(stored["started_at"]),
        _time(stored["finished_at"]),
        stored["detail"],
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def stored_steps(saga: Saga) -> list[dict[str, Any]]:
    """Return the steps as they are stored, and shown."""
    return [
        {
            "name": step.name,
            "status": step.status,
            "waiting_for": sorted(step.waiting_for),
            "started_at": step.started_at,
            "finished_at": step.finished_at,
            "detail": step.detail,
        }
        for step in saga.steps
    ]


async def lock_deployment(tx: Transaction, tenant_id: UUID, deployment_id: UUID) -> Any:
    """Lock and load a deployment (law 2: before its events go into the outbox)."""
    return await tx.fetchrow(
        f"select {COLUMNS} from deployment where tenant_id = $1 and deployment_id = $2 for update",
        tenant_id,
        deployment_id,
    )
