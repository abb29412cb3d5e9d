"""Ask for a tenant's deployment."""

from uuid import UUID

from chassis.http.problem import NotFound
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.tenant import DeploymentRequested, TenantDeploying
from services.tenant.tables import lock_tenant, save_tenant


async def request_deployment(tx: Transaction, service: Service, tenant_id: UUID) -> UUID:
    """Return the id of the deployment that was asked for."""
    tenant = await lock_tenant(tx, tenant_id)
    if tenant is None:
        raise NotFound("tenant", tenant_id)
    deployment_id = new_id()
    deploying = tenant.request_deployment(deployment_id)
    await save_tenant(tx, deploying)
    profile = tenant.profile
    event = DeploymentRequested(
        deployment_id=deployment_id,
        tenant_id=tenant_id,
        slug=profile.slug,
        name=profile.name,
        target="pooled",
        currency=profile.currency,
        country=profile.country,
        time_zone=profile.time_zone,
        administrator_email=profile.contact_email,
    )
    told = TenantDeploying(tenant_id=tenant_id, deployment_id=deployment_id)
    outgoing = [Outgoing(told, deploying.version), Outgoing(event, 1)]
    await publish(tx, outgoing, source=service.source, clock=service.clock)
    return deployment_id
