"""Add to the audit log what events tell: who changed what, before and after, from where."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from pydantic_core import to_json

from chassis.departure import departed
from chassis.ids import PLATFORM_TENANT
from chassis.messaging.subscription import Received
from chassis.persistence.database import Transaction
from dotmac_contracts.topics import Topic
from services.integration.domain.changes import Fields, changed

Resource = tuple[UUID, str]
"""Tenant and id of what an event is about."""

_ADD = """
insert into audit_entry (tenant_id, occurred_at, entry_id, action, resource_type, resource_id, version, actor,
    actor_kind, client_address, before, after, trace_id)
select t, o, e, $1, $2, r, v, a, k, c, b::json, f::json, x from unnest($3::uuid[], $4::timestamptz[], $5::uuid[],
    $6::text[], $7::bigint[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[])
    as events (t, o, e, r, v, a, k, c, b, f, x)
on conflict do nothing
"""
# What was never changed since it was made is as its first entry says.
_KNOWN = """
select w.tenant_id, w.resource_id, coalesce(s.state, made.after) as state
from unnest($2::uuid[], $3::text[]) as w (tenant_id, resource_id)
left join audit_state s on s.tenant_id = w.tenant_id and s.resource_type = $1 and s.resource_id = w.resource_id
left join lateral (
    select e.after from audit_entry e where s.state is null and e.tenant_id = w.tenant_id
    and e.resource_id = w.resource_id and e.resource_type = $1 and e.version = 1
    order by e.occurred_at limit 1
) made on true
"""
_KEEP = """
insert into audit_state (tenant_id, resource_type, resource_id, state)
select t, $1, r, s::json from unnest($2::uuid[], $3::text[], $4::text[]) as x (t, r, s) order by t, r
on conflict (tenant_id, resource_type, resource_id) do update set state = excluded.state
"""
_FORGET = """
delete from audit_state where resource_type = $1
and (tenant_id, resource_id) in (select * from unnest($2::uuid[], $3::text[]))
"""


def resource_type(topic: Topic) -> str:
    """Return what the events of a topic are about, as in `billing.invoice`."""
    return topic.name.rpartition(".")[0]


async def record_entries(tx: Transaction, received: Sequence[Received[Any]], *, ends: bool, kept: bool) -> None:
    """Add an entry for each event; all are of one type.

    ends: whether what they tell of is gone with them.
    kept: whether the platform keeps them when their tenant has left: then they are of its own log. Others are dropped.
    """
    gone = await departed(tx)
    if gone and kept:
        await tx.set_tenants(tx.tenants | {PLATFORM_TENANT})
    elif gone:
        received = [item for item in received if item.envelope.tenantid not in gone]
    if not received:
        return
    kind = received[0].envelope.type
    about = resource_type(received[0].event.TOPIC)
    owners = [PLATFORM_TENANT if item.envelope.tenantid in gone else item.envelope.tenantid for item in received]
    resources = [(owner, item.envelope.partitionkey) for owner, item in zip(owners, received, strict=True)]
    differences = await _differences(tx, about, resources, received, ends=ends)
    rows = [
        (
            owner,
            envelope.time,
            envelope.id,
            envelope.partitionkey,
            envelope.aggregateversion,
            envelope.actor,
            envelope.actorkind,
            envelope.clientaddress,
            *difference,
            envelope.traceparent[3:35] if envelope.traceparent else None,
        )
        for owner, difference, envelope in zip(owners, differences, (item.envelope for item in received), strict=True)
    ]
    await tx.execute(_ADD, kind, about, *(list(column) for column in zip(*rows, strict=True)))


async def _differences(
    tx: Transaction, about: str, resources: Sequence[Resource], received: Sequence[Received[Any]], *, ends: bool
) -> list[tuple[str | None, str | None]]:
    """Return what each event changed, before and after, as JSON; and keep what is known from now on."""
    later = {resource: None for resource, item in zip(resources, received, strict=True) if _changes(item)}
    if not later and not ends:  # most of a bulk: nothing is known of what is new
        return [(None, to_json(item.event).decode()) for item in received]
    known: dict[Resource, Fields | None] = {}
    if later:
        for row in await tx.fetch(_KNOWN, about, *_columns(later)):
            known[row["tenant_id"], row["resource_id"]] = row["state"]
    differences: list[tuple[str | None, str | None]] = []
    changes: dict[Resource, Fields] = {}
    for resource, item in zip(resources, received, strict=True):
        told = item.event.model_dump(mode="json")
        before_it = known.get(resource)
        if ends:
            differences.append((_text(before_it), None))
            known[resource] = None
            continue
        before, after = changed(before_it, told)
        differences.append((_text(before), _text(after)))
        known[resource] = {**(before_it or {}), **told}
        if _changes(item):
            changes[resource] = known[resource] or {}
    if ends:
        await tx.execute(_FORGET, about, *_columns(dict.fromkeys(resources)))
    if changes:
        await tx.execute(_KEEP, about, *_columns(changes), [_text(state) for state in changes.values()])
    return differences


def _changes(item: Received[Any]) -> bool:
    """Whether an event is about what was there before it."""
    return item.envelope.aggregateversion > 1


def _columns(resources: dict[Resource, Any]) -> tuple[list[UUID], list[str]]:
    return [tenant for tenant, _ in resources], [resource for _, resource in resources]


def _text(fields: Fields | None) -> str | None:
    return None if fields is None else orjson.dumps(fields).decode()
