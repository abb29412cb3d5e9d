"""What the services answer when a tenant leaves."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from chassis.messaging.subscription import Handler, Received
from chassis.persistence.database import Transaction
from dotmac_contracts import topics
from dotmac_contracts.billing import BillingDataDeleted, BillingDataExported
from dotmac_contracts.customer import CustomerDataDeleted, CustomerDataExported
from dotmac_contracts.departure import DataDeleted, DataExported
from dotmac_contracts.envelope import Event
from dotmac_contracts.integration import IntegrationDataDeleted, IntegrationDataExported
from dotmac_contracts.tenant import TenantDataDeleted, TenantDataExported
from services.provisioning.domain.saga import Saga

Move = Callable[[Saga, Any, datetime], Saga]
"""Gives a saga's next state from an event about it."""
Advance = Callable[[Transaction, Sequence[Received[Any]], Move], Awaitable[None]]

_EXPORTED = (TenantDataExported, CustomerDataExported, BillingDataExported, IntegrationDataExported)
_DELETED = (TenantDataDeleted, CustomerDataDeleted, BillingDataDeleted, IntegrationDataDeleted)
TOPICS = (
    topics.TENANT_DEPARTURE,
    topics.CUSTOMER_DEPARTURE,
    topics.BILLING_DEPARTURE,
    topics.INTEGRATION_DEPARTURE,
)


def handlers(advance: Advance) -> Mapping[type[Event], Handler]:
    """Return how deployments go on with these answers."""

    def with_(move: Move) -> Handler:
        async def handler(tx: Transaction, received: Sequence[Received[Any]]) -> None:
            await advance(tx, received, move)

        return handler

    return {**dict.fromkeys(_EXPORTED, with_(exported)), **dict.fromkeys(_DELETED, with_(deleted))}


def exported(saga: Saga, event: DataExported, now: datetime) -> Saga:
    """Take what a service wrote down; one that could not fails the deployment, before anything is deleted."""
    service = event.TOPIC.owner
    if event.failure is not None:
        return saga.failed("export_data", f"{service} could not write its data down: {event.failure}", now)
    rows = sum(file.rows for file in event.files)
    return _answered(saga, "export_data", service, f"{service} wrote down {rows} rows", now)


def deleted(saga: Saga, event: DataDeleted, now: datetime) -> Saga:
    """Take what a service deleted; where rows are left when it is to be proven, that fails."""
    service = event.TOPIC.owner
    left = {table.table: table.remaining for table in event.tables if table.remaining}
    if left and event.step == "prove_deletion":
        return saga.failed(event.step, f"{service} has rows left: {left}", now)
    rows = sum(table.deleted for table in event.tables)
    found = f"{service} deleted {rows} rows and has {sum(left.values())} left"
    return _answered(saga, event.step, service, found, now)


def _answered(saga: Saga, name: str, service: str, found: str, now: datetime) -> Saga:
    step = saga.current
    if step is None or step.name != name or service not in step.waiting_for:
        return saga
    return saga.noted(name, f"{step.detail}; {found}" if step.detail else found).done(name, service, now)
