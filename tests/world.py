"""Holds what is there against what is recorded: a tenant's things in every service, and its deployments.

It reads the databases past row-level security, and looks at what was made since a moment. An orphan is a thing that
nobody's record accounts for, or a record whose thing is missing. Ask it when nothing is under way.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from chassis.ids import PLATFORM_TENANT
from deploy.roles import SERVICES
from deploy.stack.stack import Stack
from tests.api import eventually

_DEPLOYED = ("active", "suspended", "maintenance")
_ENDED = ("succeeded", "failed")
_UNDER_WAY = ("deploying", "deprovisioning")
_THINGS = {
    "customer workspace": ("customer", "select tenant_id, created_at from workspace where removed_at is null"),
    "billing workspace": ("billing", "select tenant_id, created_at from workspace where removed_at is null"),
    "plan": ("billing", "select tenant_id, created_at from plan"),
    "administrator": ("tenant", "select tenant_id, created_at from app_user where 'tenant_admin' = any(roles)"),
}
"""What each deployed tenant has to have, and no other has."""


class Orphan(NamedTuple):
    """Something that does not fit."""

    tenant: str
    what: str


async def orphans(stack: Stack, since: datetime) -> list[Orphan]:
    """Return what does not fit; nothing if all does."""
    databases = {name: f"{stack.server_url.rpartition('/')[0]}/dotmac_{name}" for name in SERVICES}
    everybody = {row["tenant_id"]: row for row in await _read(databases["tenant"], "select * from tenant")}
    tenants = {tenant: row for tenant, row in everybody.items() if row["created_at"] >= since}
    orders = await _read(databases["tenant"], "select * from deployment_order")
    made = await _read(databases["provisioning"], "select * from deployment")
    deployments = {row["deployment_id"]: row for row in made if row["created_at"] >= since}
    found = []
    for what, (service, query) in _THINGS.items():
        rows = await _read(databases[service], query)
        needed = {tenant for tenant, row in tenants.items() if row["status"] in _DEPLOYED}
        found += [Orphan(str(tenant), f"{what} missing") for tenant in needed - {row["tenant_id"] for row in rows}]
        new = {row["tenant_id"] for row in rows if row["created_at"] >= since} - {PLATFORM_TENANT}
        too_many = new - needed - (everybody.keys() - tenants.keys())
        found += [Orphan(str(tenant), f"{what} of {_status(tenants.get(tenant))}") for tenant in too_many]
    for deployment_id, row in deployments.items():
        where, tenant = f"deployment {deployment_id}", str(row["tenant_id"])
        if row["status"] not in _ENDED:
            found.append(Orphan(tenant, f"{where} is {row['status']}"))
        if row["status"] == "failed":
            left = [step["name"] for step in json.loads(row["steps"]) if step["status"] in ("stuck", "compensating")]
            found += [Orphan(tenant, f"{where} has left {name}") for name in left]
        if row["tenant_id"] not in everybody:
            found.append(Orphan(tenant, f"{where} of no tenant"))
    for order in orders:
        deployment = deployments.get(order["deployment_id"])
        where, tenant = f"order {order['deployment_id']}", str(order["tenant_id"])
        if deployment is None and order["requested_at"] >= since:
            found.append(Orphan(tenant, f"{where} has no deployment"))
        elif deployment is not None and (order["ended_at"] is not None) != (deployment["status"] in _ENDED):
            found.append(Orphan(tenant, f"{where} does not know how its deployment is"))
    under_way = {order["tenant_id"] for order in orders if order["ended_at"] is None}
    idle = [tenant for tenant, row in tenants.items() if row["status"] in _UNDER_WAY and tenant not in under_way]
    return sorted([*found, *(Orphan(str(tenant), "is under way, and no order is") for tenant in idle)])


async def fits(stack: Stack, since: datetime, wanted: list[Orphan]) -> None:
    """Return once the checker finds this and nothing else."""
    found: list[Orphan] = []

    async def so() -> bool:
        found[:] = await orphans(stack, since)
        return found == wanted

    try:
        await eventually(so)
    except AssertionError:
        raise AssertionError(f"the checker found {found}") from None


def _status(tenant: Mapping[str, Any] | None) -> str:
    return f"a tenant that is {tenant['status']}" if tenant else "no tenant"


async def _read(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        found: list[Any] = await connection.fetch(query)
        return found
    finally:
        await connection.close()
