"""Reads every topic along, for the audit log."""

from collections.abc import Sequence
from typing import Any

from chassis.messaging.subscription import Handler, Received, Subscription
from chassis.persistence.database import Transaction
from dotmac_contracts import topics
from dotmac_contracts.billing import BillingWorkspaceRemoved
from dotmac_contracts.customer import CustomerWorkspaceRemoved
from dotmac_contracts.envelope import EVENTS, Event
from dotmac_contracts.integration import WebhookEndpointDeleted
from dotmac_contracts.tenant import (
    AdministratorRemoved,
    DeploymentTemplateDeleted,
    RoleDeleted,
    ServiceAccountDeleted,
    UserDeleted,
)
from services.integration.use_cases.record_entries import record_entries, resource_type

# Snapshots tell nothing that was not told before.
TOPICS = tuple(topic for topic in topics.ALL if not topic.compacted)
AUDITED_EVENTS = {name: event for name, event in sorted(EVENTS.items()) if event.TOPIC in TOPICS}
RESOURCE_TYPES = sorted(map(resource_type, TOPICS))

_ENDS = frozenset(
    {
        AdministratorRemoved,
        BillingWorkspaceRemoved,
        CustomerWorkspaceRemoved,
        DeploymentTemplateDeleted,
        RoleDeleted,
        ServiceAccountDeleted,
        UserDeleted,
        WebhookEndpointDeleted,
    }
)
_KEPT = frozenset(
    {
        topics.TENANT,
        topics.TENANT_DEPLOYMENT,
        topics.PROVISIONING_DEPLOYMENT,
        topics.TENANT_DEPARTURE,
        topics.CUSTOMER_DEPARTURE,
        topics.BILLING_DEPARTURE,
        topics.INTEGRATION_DEPARTURE,
    }
)
"""What the platform itself knows of a tenant, and keeps when it has left."""


def subscription() -> Subscription:
    """Return what the audit log does with events: each is an entry."""
    return Subscription("integration-audit", TOPICS, {event: _recording(event) for event in AUDITED_EVENTS.values()})


def _recording(event: type[Event]) -> Handler:
    async def record(tx: Transaction, received: Sequence[Received[Any]]) -> None:
        await record_entries(tx, received, ends=event in _ENDS, kept=event.TOPIC in _KEPT)

    return record
