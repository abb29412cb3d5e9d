"""Transitions that deployments ask for: a tenant goes to another status, or back to where it was."""

from collections.abc import Sequence
from typing import Any

from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.subscription import Handler, Received
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.envelope import Envelope, Event
from dotmac_contracts.provisioning import TenantTransitionRequested, TenantTransitionReversalRequested
from dotmac_contracts.tenant import TenantTransitionMade, TenantTransitionRefused, TenantTransitionReversed
from services.tenant.domain.tenant import Refused, Status, Tenant
from services.tenant.tables import lock_tenant
from services.tenant.use_cases.transition import transition


def handlers(service: Service) -> dict[type[Event], Handler]:
    """Return what the tenant service does when a deployment asks for a transition; each gets an answer."""

    async def requested(tx: Transaction, received: Sequence[Received[TenantTransitionRequested]]) -> None:
        for item in received:
            tenant, order = await _locked(tx, item.event)
            if tenant is None or order is None:
                continue
            facts = {**_ids(item.event), "step": item.event.step}
            told: list[Outgoing] = []
            answer: Event
            try:
                changed = tenant.go(Status(item.event.status), item.event.deployment_id)
            except (Refused, ValueError) as error:
                answer = TenantTransitionRefused(**facts, status=tenant.status, reason=str(error))
            else:
                told = await moved(tx, tenant, changed, order, item.event.reason, item.envelope)
                answer = TenantTransitionMade(**facts, status=changed.status)
            await answered(tx, told, answer, order, item.envelope)

    async def reversal_requested(
        tx: Transaction, received: Sequence[Received[TenantTransitionReversalRequested]]
    ) -> None:
        for item in received:
            tenant, order = await _locked(tx, item.event)
            if tenant is None or order is None:
                continue
            before = await _status_before(tx, item.event)
            changed = tenant.go(Status(before), item.event.deployment_id) if before else tenant
            told = await moved(tx, tenant, changed, order, "it was undone", item.envelope)
            answer = TenantTransitionReversed(**_ids(item.event), step=item.event.step, status=changed.status)
            await answered(tx, told, answer, order, item.envelope)

    async def moved(
        tx: Transaction, before: Tenant, after: Tenant, order: Any, reason: str | None, cause: Envelope
    ) -> list[Outgoing]:
        by = order["requested_by"]
        return await transition(tx, service, before, after, reason=reason, requested_by=by, cause=cause)

    async def answered(tx: Transaction, told: list[Outgoing], answer: Event, order: Any, cause: Envelope) -> None:
        version = await tx.fetchval(
            "update deployment_order set version = version + 1 where tenant_id = $1 and deployment_id = $2"
            " returning version",
            answer.tenant_id,
            order["deployment_id"],
        )
        outgoing = [*told, Outgoing(answer, version, cause)]
        await publish(tx, outgoing, source=service.source, clock=service.clock)

    return {TenantTransitionRequested: requested, TenantTransitionReversalRequested: reversal_requested}


_Asked = TenantTransitionRequested | TenantTransitionReversalRequested


def _ids(event: _Asked) -> dict[str, Any]:
    return {"deployment_id": event.deployment_id, "tenant_id": event.tenant_id}


async def _locked(tx: Transaction, event: _Asked) -> tuple[Tenant | None, Any]:
    """Lock the tenant and the order that a deployment is about."""
    tenant = await lock_tenant(tx, event.tenant_id)
    order = await tx.fetchrow(
        "select deployment_id, requested_by from deployment_order where tenant_id = $1 and deployment_id = $2"
        " for update",
        event.tenant_id,
        event.deployment_id,
    )
    return tenant, order


async def _status_before(tx: Transaction, event: _Asked) -> str | None:
    """Return from where the tenant's last transition led, if it is this deployment's; else nothing is to be undone."""
    last = await tx.fetchrow(
        "select from_status, deployment_id from tenant_transition where tenant_id = $1 order by version desc limit 1",
        event.tenant_id,
    )
    if last is None or last["deployment_id"] != event.deployment_id:
        return None
    before: str | None = last["from_status"]
    return before
