"""Steer a deployment by hand: cancel it, or try one again that failed."""

from typing import Any
from uuid import UUID

from chassis.http.problem import Conflict, NotFound
from chassis.persistence.database import Transaction
from chassis.security.actors import current
from chassis.service import Service
from services.provisioning.domain.saga import Refused
from services.provisioning.tables import COLUMNS
from services.provisioning.use_cases.advance import Unfolding, save


async def cancel(tx: Transaction, service: Service, deployment_id: UUID, reason: str | None) -> Any:
    """Give a deployment up, and undo what it began; Problem 409 if it is over. Returns its row."""
    item, now = await _locked(tx, deployment_id), service.clock.now()
    try:
        item.move(item.saga.cancel(f"it was cancelled: {reason}" if reason else "it was cancelled", now), now)
    except Refused as error:
        raise Conflict("wrong-state", f"It can't be cancelled: {error}.") from error
    return await _saved(tx, service, item)


async def retry(tx: Transaction, service: Service, deployment_id: UUID) -> Any:
    """Put a deployment that failed into the queue again; Problem 409 if it did not, or was not its tenant's last."""
    item = await _locked(tx, deployment_id)
    later = await tx.fetchval(
        # A repair is nobody's order: it leaves the tenant as it was.
        "select deployment_id from deployment where tenant_id = $1 and deployment_id > $2"
        " and operation not like 'repair%' limit 1",
        item.row["tenant_id"],
        deployment_id,
    )
    if later is not None:
        raise Conflict("wrong-state", f"It can't be tried again: the deployment {later} came after it.")
    try:
        item.move(item.saga.retry(), service.clock.now())
    except Refused as error:
        raise Conflict("wrong-state", f"It can't be tried again: {error}.") from error
    return await _saved(tx, service, item)


async def _locked(tx: Transaction, deployment_id: UUID) -> Unfolding:
    """Return a deployment of which whoever steers it now makes happen what follows."""
    row = await tx.fetchrow(f"select {COLUMNS} from deployment where deployment_id = $1 for update", deployment_id)
    if row is None:
        raise NotFound("deployment", deployment_id)
    item = Unfolding(row)
    if item.cause is not None:
        item.cause = item.cause._replace(**current()._asdict())
    return item


async def _saved(tx: Transaction, service: Service, item: Unfolding) -> Any:
    await save(tx, service, [item])
    return await tx.fetchrow(f"select {COLUMNS} from deployment where deployment_id = $1", item.row["deployment_id"])
