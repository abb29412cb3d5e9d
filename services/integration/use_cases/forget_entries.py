"""Delete entries of the audit log that are older than they are to be kept."""

from datetime import timedelta

from chassis.service import Service

_CHUNK = 1000
_OLD = """
select tenant_id, occurred_at, entry_id from audit_entry where occurred_at < $1 order by occurred_at limit $2
"""
# Of what was not changed since it was made, its first entry is all that says what it is: that goes on being known.
# What has a later entry is known already, or gone.
_KEEP = """
insert into audit_state (tenant_id, resource_type, resource_id, state)
select e.tenant_id, e.resource_type, e.resource_id, e.after
from audit_entry e join unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) as x (t, o, i)
    on e.tenant_id = x.t and e.occurred_at = x.o and e.entry_id = x.i
where e.version = 1 and e.after is not null and not exists (
    select from audit_entry l
    where l.tenant_id = e.tenant_id and l.resource_id = e.resource_id and l.resource_type = e.resource_type
    and l.version > 1
)
order by e.tenant_id, e.resource_id
on conflict (tenant_id, resource_type, resource_id) do nothing
"""
_DELETE = """
delete from audit_entry e using unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) as x (t, o, i)
where e.tenant_id = x.t and e.occurred_at = x.o and e.entry_id = x.i
"""


async def forget_entries(service: Service, days: int) -> bool:
    """Delete some that are older than so many days, of all tenants; return whether there may be more.

    That none is younger than 90 days, a policy of the database says as well.
    """
    async with service.consumer_db.unscoped() as tx:
        rows = await tx.fetch(_OLD, service.clock.now() - timedelta(days=days), _CHUNK)
        if rows:
            await tx.set_tenants({row["tenant_id"] for row in rows})
            keys = [list(column) for column in zip(*(row.values() for row in rows), strict=True)]
            await tx.execute(_KEEP, *keys)
            await tx.execute(_DELETE, *keys)
    return len(rows) == _CHUNK
