"""Create, change and delete templates of deployments, and say what comes of one."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg
from starlette.requests import Request

from chassis.http.preconditions import require_match
from chassis.http.problem import Conflict, NotFound, Unprocessable
from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.envelope import Event
from dotmac_contracts.tenant import DeploymentTemplateCreated, DeploymentTemplateDeleted, DeploymentTemplateUpdated
from services.tenant.domain.templates import problems, resolved

MOST_TEMPLATES = 100
_TOLD = ("template_id", "tenant_id", "name", "description", "target", "plan", "parameters")


async def create_template(tx: Transaction, service: Service, who: Principal, facts: Mapping[str, Any]) -> Any:
    """Return the new template's row; Problem 409 if the name is taken."""
    _refuse(problems(facts["parameters"], facts["parameters"]))
    if await tx.fetchval("select count(*) from deployment_template") >= MOST_TEMPLATES:
        raise Conflict("too-many-templates", f"There can be {MOST_TEMPLATES} templates: delete one first.")
    try:
        row = await tx.fetchrow(
            "insert into deployment_template (tenant_id, template_id, name, description, target, plan, parameters,"
            " version, created_at, updated_at) values ($1, $2, $3, $4, $5, $6, $7, 1, $8, $8) returning *",
            PLATFORM_TENANT,
            new_id(),
            facts["name"],
            facts["description"],
            facts["target"],
            facts["plan"],
            facts["parameters"],
            service.clock.now(),
        )
    except asyncpg.UniqueViolationError:
        raise _taken(facts["name"]) from None
    await _tell(tx, service, row, DeploymentTemplateCreated(**_told(row), changed_by=who.subject))
    return row


async def change_template(
    tx: Transaction, service: Service, request: Request, who: Principal, template_id: UUID, changes: Mapping[str, Any]
) -> Any:
    """Apply the changes to the version that the caller read. What was ordered by it before stays as it was ordered."""
    row = await _locked(tx, template_id)
    require_match(request, row["version"])
    after = {**_told(row), **changes}
    _refuse(problems(after["parameters"], after["parameters"]))
    if after == _told(row):
        return row
    try:
        row = await tx.fetchrow(
            "update deployment_template set name = $3, description = $4, target = $5, plan = $6, parameters = $7,"
            " version = version + 1, updated_at = $8 where tenant_id = $1 and template_id = $2 returning *",
            PLATFORM_TENANT,
            template_id,
            after["name"],
            after["description"],
            after["target"],
            after["plan"],
            after["parameters"],
            service.clock.now(),
        )
    except asyncpg.UniqueViolationError:
        raise _taken(after["name"]) from None
    assert row is not None
    await _tell(tx, service, row, DeploymentTemplateUpdated(**_told(row), changed_by=who.subject))
    return row


async def delete_template(tx: Transaction, service: Service, who: Principal, template_id: UUID) -> None:
    """Delete a template. What was ordered by it stays as it was ordered."""
    row = await _locked(tx, template_id)
    await tx.execute(
        "delete from deployment_template where tenant_id = $1 and template_id = $2", PLATFORM_TENANT, template_id
    )
    event = DeploymentTemplateDeleted(
        template_id=template_id, tenant_id=PLATFORM_TENANT, name=row["name"], deleted_by=who.subject
    )
    await publish(tx, [Outgoing(event, row["version"] + 1)], source=service.source, clock=service.clock)


def parameters_of(template: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of an order by a template; Problem 422 if the order can't give these."""
    _refuse(problems(template["parameters"], given))
    return resolved(template["parameters"], given)


def _refuse(wrong: Mapping[str, str]) -> None:
    if wrong:
        errors = [{"pointer": f"/body/parameters{pointer}", "detail": why} for pointer, why in wrong.items()]
        raise Unprocessable("invalid-parameters", "These parameters can't be given.", errors=errors)


def _taken(name: str) -> Exception:
    return Conflict("template-exists", f"There is a template {name!r} already.")


async def _locked(tx: Transaction, template_id: UUID) -> Any:
    row = await tx.fetchrow(
        "select * from deployment_template where tenant_id = $1 and template_id = $2 for update",
        PLATFORM_TENANT,
        template_id,
    )
    if row is None:
        raise NotFound("deployment template", template_id)
    return row


def _told(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in _TOLD}


async def _tell(tx: Transaction, service: Service, row: Any, event: Event) -> None:
    await publish(tx, [Outgoing(event, row["version"])], source=service.source, clock=service.clock)
