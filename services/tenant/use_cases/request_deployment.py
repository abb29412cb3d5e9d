"""Order an operation on a tenant: a deployment that provisioning does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from chassis.http.problem import NotFound, Unprocessable
from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.money import Money
from dotmac_contracts.tenant import GRACE_SECONDS, DeploymentRequested
from dotmac_contracts.workspace import StarterPlan, WorkspaceParameters
from services.tenant.domain.settings import PAYMENT_TERMS_DAYS
from services.tenant.domain.templates import STARTER_PLANS
from services.tenant.domain.tenant import Operation, Refused, Target, Tenant
from services.tenant.tables import lock_tenant, save_tenant
from services.tenant.use_cases.change_settings import kept, set_for
from services.tenant.use_cases.change_template import parameters_of
from services.tenant.use_cases.transition import transition
from services.tenant.use_cases.update_tenant import with_profile

_LAST_TARGET = "select target from deployment_order where tenant_id = $1 order by deployment_id desc limit 1"
_TEMPLATE = "select * from deployment_template where tenant_id = $1 and template_id = $2 for share"


@dataclass(frozen=True, slots=True)
class Asked:
    """What an order asks for."""

    operation: Operation = Operation.DEPLOY
    target: Target | None = None
    reason: str | None = None
    grace_seconds: int | None = None
    template_id: UUID | None = None
    parameters: Mapping[str, Any] | None = None
    """What is to be otherwise than the template says."""
    release: str | None = None
    instances: int | None = None


@dataclass(frozen=True, slots=True)
class _By:
    """What a template makes of an order; without one, nothing."""

    target: Target | None
    plan: str | None = None
    parameters: Mapping[str, Any] | None = None


async def request_deployment(
    tx: Transaction, service: Service, tenant_id: UUID, requested_by: str, asked: Asked
) -> UUID:
    """Return the id of the deployment that was ordered; Refused if the tenant's state forbids it, Problem 422 if it
    can't be ordered so."""
    _check(asked)
    tenant = await lock_tenant(tx, tenant_id)
    if tenant is None:
        raise NotFound("tenant", tenant_id)
    deployment_id, operation = new_id(), asked.operation
    grace_seconds = GRACE_SECONDS.get(operation, 0) if asked.grace_seconds is None else asked.grace_seconds
    by = await _by_template(tx, asked)
    tenant.order(operation, deployment_id)  # whatever else is asked, it can be refused
    under_way = await tx.fetchrow(
        "select deployment_id, operation from deployment_order where tenant_id = $1 and ended_at is null", tenant_id
    )
    if under_way is not None:
        raise Refused(f"the deployment {under_way['deployment_id']} ({under_way['operation']}) is under way")
    last = await tx.fetchval(_LAST_TARGET, tenant_id)
    at = Target(last) if last else None
    target = tenant.target(operation, by.target, at)
    told: list[Outgoing] = []
    if by.plan is not None:
        tenant, told = await with_profile(tx, tenant, {"plan": by.plan})
        await save_tenant(tx, tenant)
    ordered = tenant.order(operation, deployment_id)
    told += await transition(tx, service, tenant, ordered, reason=asked.reason, requested_by=requested_by)
    await tx.execute(
        "insert into deployment_order (tenant_id, deployment_id, operation, reason, grace_seconds, requested_by,"
        " version, requested_at, target, template_id, parameters) values ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9, $10)",
        tenant_id,
        deployment_id,
        operation,
        asked.reason,
        grace_seconds,
        requested_by,
        service.clock.now(),
        target,
        asked.template_id,
        by.parameters,
    )
    parameters = None
    if operation is Operation.DEPLOY:
        parameters = await _parameters(tx, service, tenant, requested_by, by.parameters or {})
    profile = tenant.profile
    event = DeploymentRequested(
        deployment_id=deployment_id,
        tenant_id=tenant_id,
        slug=profile.slug,
        name=profile.name,
        target="pooled",
        dedicated_target=None if target == Target.POOLED else target,
        moved_from=at or Target.POOLED if operation is Operation.MOVE else None,
        currency=profile.currency,
        country=profile.country,
        time_zone=profile.time_zone,
        administrator_email=profile.contact_email,
        operation=operation,
        reason=asked.reason,
        grace_seconds=grace_seconds,
        template_id=asked.template_id,
        parameters=parameters,
        release=asked.release,
        instances=asked.instances,
    )
    await publish(tx, [*told, Outgoing(event, 1)], source=service.source, clock=service.clock)
    return deployment_id


def _check(asked: Asked) -> None:
    """Problem 422 if an order says what its operation knows nothing of, or does not say what it needs."""
    if asked.release is not None and asked.operation is not Operation.UPGRADE:
        raise _wrong("release", f"a release is to upgrade to, not to {asked.operation}")
    if asked.instances is not None and asked.operation is not Operation.SCALE:
        raise _wrong("instances", f"instances are to scale to, not to {asked.operation}")
    if asked.instances is None and asked.operation is Operation.SCALE:
        raise _wrong("instances", "to scale it, say to how many instances")


async def _by_template(tx: Transaction, asked: Asked) -> _By:
    """Return what the template of an order says; Problem 422 if it can't be ordered so."""
    if asked.template_id is None:
        if asked.parameters is not None:
            raise _wrong("parameters", "parameters are a template's: name one")
        return _By(asked.target)
    if asked.operation is not Operation.DEPLOY:
        raise _wrong("template_id", f"a template is to deploy by, not to {asked.operation}")
    template = await tx.fetchrow(_TEMPLATE, PLATFORM_TENANT, asked.template_id)
    if template is None:
        raise _wrong("template_id", f"there is no deployment template {asked.template_id}")
    if asked.target not in (None, template["target"]):
        raise _wrong("target", f"the template deploys to {template['target']}")
    parameters = parameters_of(template, asked.parameters or {})
    return _By(Target(template["target"]), template["plan"], parameters)


def _wrong(field: str, why: str) -> Exception:
    errors = [{"pointer": f"/body/{field}", "detail": why}]
    return Unprocessable("invalid-order", "It can't be ordered so.", errors=errors)


async def _parameters(
    tx: Transaction, service: Service, tenant: Tenant, by: str, given: Mapping[str, Any]
) -> WorkspaceParameters | None:
    """Return how the tenant's workspaces are to be prepared, and set what becomes its setting."""
    if PAYMENT_TERMS_DAYS in given:
        settings = {PAYMENT_TERMS_DAYS: given[PAYMENT_TERMS_DAYS]}
        await set_for(tx, service, tenant.id, by, "billing", settings)
    # Billing learns of a setting by itself, but an instance that is new may issue invoices before.
    days = (await kept(tx, tenant.id))["billing"].given.get(PAYMENT_TERMS_DAYS)
    plans = given.get(STARTER_PLANS)
    parameters = WorkspaceParameters.model_validate(
        {
            "payment_terms_days": days,
            "invoice_prefix": given.get("invoice_prefix"),
            "starter_plans": None if plans is None else [_plan(plan, tenant.profile.currency) for plan in plans],
        }
    )
    return None if parameters == WorkspaceParameters() else parameters


def _plan(plan: Mapping[str, Any], currency: str) -> StarterPlan:
    price = Money(amount_minor=plan["price_minor"], currency=currency)
    return StarterPlan(code=plan["code"], name=plan["name"], price=price)
