"""Storage of deployments."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from chassis.persistence.database import Transaction
from chassis.security.actors import Actor
from dotmac_contracts.envelope import Envelope
from services.provisioning.domain.saga import Saga, Step

COLUMNS = (
    "tenant_id, deployment_id, target, operation, status, request, steps, failed_step, reason, placement, cause,"
    " actor, version, lease, log_position, created_at, updated_at"
)


def saga_of(row: Any) -> Saga:
    """Return the saga in a row of `deployment`."""
    steps = tuple(_step(step) for step in row["steps"])
    grace = timedelta(seconds=row["request"].get("grace_seconds", 0))
    return Saga(
        row["target"],
        row["operation"],
        steps,
        row["status"],
        row["failed_step"],
        row["reason"],
        grace,
        moved_from(row),
    )


def moved_from(row: Any) -> str | None:
    """Return where a tenant was that is moved by the deployment in a row; None if it is not moved."""
    if row["operation"] != "move":
        return None
    stated: str | None = row["request"].get("moved_from")
    # Who asked before that could be said knew of these two alone.
    return stated or ("process" if row["target"] == "pooled" else "pooled")


def _step(stored: dict[str, Any]) -> Step:
    times = {name: _time(stored.get(name)) for name in ("started_at", "finished_at", "since", "until")}
    return Step(stored["name"], stored["status"], frozenset(stored["waiting_for"]), **times, detail=stored["detail"])


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def stored_steps(saga: Saga) -> str:
    """Return the steps as they are stored, and shown: JSON."""
    return orjson.dumps(
        [
            {
                "name": step.name,
                "status": step.status,
                "waiting_for": sorted(step.waiting_for),
                "started_at": step.started_at,
                "finished_at": step.finished_at,
                "since": step.since,
                "detail": step.detail,
                "until": step.until,
            }
            for step in saga.steps
        ]
    ).decode()


def stored_cause(envelope: Envelope | None) -> str | None:
    """Return what is kept of the event that moved a deployment last, which causes its own next steps too: JSON.

    Whose it is, is kept apart: a release that does not know of actors could not read them here.
    """
    if envelope is None:
        return None
    kept = envelope._asdict()
    for name in Actor._fields:
        del kept[name]
    return orjson.dumps(kept).decode()


def stored_actor(envelope: Envelope | None) -> str | None:
    """Return who made that event happen, as a row keeps it."""
    return Actor.of(envelope).stored() if envelope else None


def cause_of(row: Any) -> Envelope | None:
    """Return the event that moved a deployment last."""
    kept = row["cause"]
    if kept is None:
        return None
    ids = {name: UUID(kept[name]) for name in ("id", "tenantid", "causationid", "correlationid") if kept[name]}
    actor = Actor.kept(row["actor"])._asdict()
    return Envelope(**{**kept, **ids, "time": datetime.fromisoformat(kept["time"]), **actor})


async def lock_deployments(
    tx: Transaction, tenant_ids: Collection[UUID], deployment_ids: Collection[UUID]
) -> Sequence[Any]:
    """Lock and load deployments in one order (law 2: before their events go into the outbox)."""
    return await tx.fetch(
        f"select {COLUMNS} from deployment where tenant_id = any($1::uuid[]) and deployment_id = any($2::uuid[])"
        " order by deployment_id for update",
        list(tenant_ids),
        list(deployment_ids),
    )
