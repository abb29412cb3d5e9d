"""Forget events that are older than a week, with what is told of their deliveries."""

from collections import defaultdict
from uuid import UUID

from chassis.service import Service

_CHUNK = 5000


async def forget_events(service: Service) -> bool:
    """Forget some, of all tenants; return whether there may be more. What is still to be delivered stays.

    How old they must be, the policy by which they are seen says as well.
    """
    async with service.consumer_db.unscoped() as tx:
        rows = await tx.fetch(
            "with old as (select tenant_id, position from feed_event e where recorded_at < now() - interval '7 days'"
            " and not exists (select from webhook_delivery d where d.tenant_id = e.tenant_id"
            " and d.position = e.position and d.status = 'pending') limit $1)"
            " delete from feed_event e using old where e.tenant_id = old.tenant_id and e.position = old.position"
            " returning e.tenant_id, e.position",
            _CHUNK,
        )
        forgotten: dict[UUID, int] = defaultdict(int)
        for row in rows:
            forgotten[row["tenant_id"]] = max(forgotten[row["tenant_id"]], row["position"])
        if forgotten:
            await tx.set_tenants(forgotten)
            await tx.execute(
                "update feed set forgotten = greatest(forgotten, x.position)"
                " from unnest($1::uuid[], $2::bigint[]) as x (tenant_id, position) where feed.tenant_id = x.tenant_id",
                list(forgotten),
                list(forgotten.values()),
            )
    return len(rows) == _CHUNK
