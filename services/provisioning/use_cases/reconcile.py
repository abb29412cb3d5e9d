"""Look at whether the world is as the records say; what is not is repaired by a deployment, as all is done, or told.

What can't be asked for now, because a service is away, is no drift. Nor is what was so only once: an event may have
been under way while it was looked at.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.provisioning import DriftFound, DriftResolved
from services.provisioning import access, metrics
from services.provisioning.domain.drift import NEUTRAL, Finding, Kind, Record, Remedy, drifts
from services.provisioning.domain.saga import Saga, final_steps
from services.provisioning.settings import DeploymentSettings
from services.provisioning.tables import lock_deployments
from services.provisioning.use_cases import observe
from services.provisioning.use_cases.advance import Unfolding, save

log = structlog.get_logger()

_REPAIRS = [Remedy.REPAIR.value, Remedy.REPAIR_ADMINISTRATOR.value]
_LONGEST_WAIT = 64
"""Looks after which a remedy that did not help is tried again, at most; before, twice as many each time."""

_FINAL = [list(final_steps(operation)) for operation in ("move", "deprovision")]
_RECORDS = """
select l.tenant_id, l.deployment_id, l.operation, l.status, l.steps @> '[{"status": "stuck"}]' as stuck, a.brought,
    a.under_way, a.leaving
from (
    select tenant_id,
        -- A move that has half ended is gone on with by who tries it again, and till then nobody judges it.
        bool_or(status not in ('succeeded', 'failed') or updated_at >= $3
            or operation = 'move' and coalesce(failed_step, '') = any($4::text[])) as under_way,
        bool_or(operation = 'deprovision' and coalesce(failed_step, '') = any($5::text[])) as leaving,
        (array_agg(operation order by deployment_id desc)
            filter (where status = 'succeeded' and operation <> all($2::text[])))[1] as brought,
        (array_agg(deployment_id order by deployment_id desc) filter (where operation <> all($2::text[])))[1] as last
    from deployment where tenant_id = any($1::uuid[]) group by tenant_id
) as a left join deployment l on l.tenant_id = a.tenant_id and l.deployment_id = a.last
"""
_PLACED = "select tenant_id, target from instance where wanted and tenant_id = any($1::uuid[])"
_OPEN = """
insert into drift (tenant_id, drift_id, kind, detail, remedy, found_at, version)
select *, $6, 1 from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])
on conflict (tenant_id, kind) where resolved_at is null do nothing returning drift_id
"""
_RESOLVE = """
update drift d set resolved_at = $3, version = d.version + 1 from unnest($1::uuid[], $2::text[]) as x (t, k)
where d.tenant_id = x.t and d.kind = x.k and d.resolved_at is null returning d.*
"""
# Those whose remedy has had its time to help.
_ATTEMPT = """
update drift d set attempts = d.attempts + 1, attempted_at = $3 from unnest($1::uuid[], $2::text[]) as x (t, k)
where d.tenant_id = x.t and d.kind = x.k and d.resolved_at is null and (d.attempted_at is null
    or d.attempted_at + least(power(2, d.attempts - 1), $5::float) * $4::interval <= $3)
returning d.*
"""
# The request of the deployment that brought the tenant up, done again in part, where the tenant is now; unless
# something has begun meanwhile.
_ORDER = """
insert into deployment (tenant_id, deployment_id, target, operation, status, request, steps, version)
select x.t, x.d, b.target, x.o, 'queued', b.request || jsonb_build_object('deployment_id', x.d, 'operation', x.o,
    'reason', x.r, 'grace_seconds', 0), '[]'::jsonb, 0
from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) as x (t, d, o, r) cross join lateral (
    select l.target, d.request from deployment d, (select target from deployment where tenant_id = x.t
        and operation in ('deploy', 'move') and status = 'succeeded' order by deployment_id desc limit 1) as l
    where d.tenant_id = x.t and d.operation = 'deploy' and d.status = 'succeeded' order by d.deployment_id desc limit 1
) as b
where not exists (select 1 from deployment u where u.tenant_id = x.t and u.status not in ('succeeded', 'failed'))
returning deployment_id
"""


class Suspicion(NamedTuple):
    """What was seen once, and is a drift when it is seen again."""

    tenant_id: UUID
    kind: Kind
    detail: str
    deployment_id: UUID | None


class Reconciler:
    """Looks at every tenant again and again."""

    def __init__(self, service: Service, settings: DeploymentSettings) -> None:
        self._service = service
        self._interval = timedelta(seconds=settings.reconcile_seconds)
        self._suspected: set[Suspicion] = set()
        self._begun = False

    async def look(self) -> bool:
        """Look at every tenant once, but at first only at what is open. There is no more work then."""
        if not self._begun:  # what starts with this one can't be judged yet
            await self._count()
            self._begun = True
            return False
        settings, suspected, began = self._service.settings, set[Suspicion](), self._service.clock.now()
        try:
            administered = await observe.administered(settings)
            async for page in observe.tenants(settings):
                suspected |= await self._look_at(page, administered, began)
        except observe.Unanswered as error:
            log.info("tenants_not_looked_at", error=str(error))
        self._suspected = suspected
        await self._count()
        return False

    async def _look_at(
        self, page: list[dict[str, Any]], administered: set[UUID] | None, began: datetime
    ) -> set[Suspicion]:
        tenants = [UUID(tenant["id"]) for tenant in page]
        # The records first: what they say has long been told when the world is looked at.
        async with self._service.consumer_db.for_tenants(tenants) as tx:
            # Nor is what has ended since: the tenants and their administrators were read before.
            rows = await tx.fetch(_RECORDS, tenants, list(NEUTRAL), began, *_FINAL)
            known = {row["tenant_id"]: row for row in rows}
            idle = [item for item in page if not (row := known.get(UUID(item["id"]))) or not row["under_way"]]
            placed = await tx.fetch(_PLACED, [UUID(tenant["id"]) for tenant in idle])
        settings, suspected, confirmed, well = self._service.settings, set(), [], []
        lost = await observe.lost(settings, {row["tenant_id"]: row["target"] for row in placed})
        for item, seen in zip(idle, await observe.seen(settings, idle, administered, lost), strict=True):
            tenant_id = UUID(item["id"])
            record = _record(known.get(tenant_id))
            for kind, finding in drifts(record, seen, access.refusal(seen.status)).items():
                if finding is None:
                    well.append((tenant_id, kind))
                    continue
                suspicion = Suspicion(tenant_id, kind, finding.detail, record.deployment_id if record else None)
                suspected.add(suspicion)
                if suspicion in self._suspected:
                    confirmed.append((tenant_id, finding))
        await self._keep(known, confirmed, well)
        return suspected

    async def _keep(
        self,
        known: Mapping[UUID, Any],
        confirmed: Sequence[tuple[UUID, Finding]],
        well: Sequence[tuple[UUID, Kind]],
    ) -> None:
        service, now = self._service, self._service.clock.now()
        tenants = {tenant_id for tenant_id, _ in (*confirmed, *well)}
        keys = [tenant_id for tenant_id, _ in confirmed], [finding.kind.value for _, finding in confirmed]
        async with service.consumer_db.for_tenants(tenants) as tx:
            details, remedies = [each.detail for _, each in confirmed], [each.remedy.value for _, each in confirmed]
            opened = await tx.fetch(_OPEN, keys[0], [new_id() for _ in confirmed], keys[1], details, remedies, now)
            well_keys = [tenant_id for tenant_id, _ in well], [kind.value for _, kind in well]
            resolved = await tx.fetch(_RESOLVE, *well_keys, now)
            due = await tx.fetch(_ATTEMPT, *keys, now, self._interval, _LONGEST_WAIT)
            repairs = await self._order(tx, [row for row in due if row["remedy"] in _REPAIRS])
            again = [row["tenant_id"] for row in due if row["remedy"] == Remedy.TELL_AGAIN]
            await self._tell_again(tx, [known[tenant_id] for tenant_id in again if tenant_id in known])
            new = {row["drift_id"] for row in opened}
            found = [row for row in due if row["drift_id"] in new]
            events = [_found(row, repairs.get(row["drift_id"])) for row in found] + [_resolved(row) for row in resolved]
            await publish(tx, events, source=service.source, clock=service.clock)
            for row in found:
                tx.after_commit(metrics.DRIFTS_FOUND.labels(row["kind"]).inc)
        for row in found:
            told = {name: str(row[name]) for name in ("tenant_id", "kind", "detail", "remedy")}
            log.warning("drift_found", **told)

    async def _order(self, tx: Transaction, due: Sequence[Any]) -> dict[UUID, UUID]:
        """Put repairs into the queue; return the deployment of each drift that is repaired so."""
        # Of a tenant one at a time: the others have their turn at the next look.
        first = {row["tenant_id"]: row for row in reversed(due)}.values()
        ids = {new_id(): row for row in first}
        tenants = [row["tenant_id"] for row in first]
        operations, reasons = [row["remedy"] for row in first], [row["detail"] for row in first]
        made = {row["deployment_id"] for row in await tx.fetch(_ORDER, tenants, list(ids), operations, reasons)}
        now, unfoldings = self._service.clock.now(), []
        for row in await lock_deployments(tx, tenants, made):
            item = Unfolding(row)
            item.move(Saga.order(row["target"], row["operation"], now), now)
            unfoldings.append(item)
        await save(tx, self._service, unfoldings)
        repairs = {row["drift_id"]: deployment_id for deployment_id, row in ids.items() if deployment_id in made}
        await tx.execute(
            "update drift d set deployment_id = x.d from unnest($1::uuid[], $2::uuid[]) as x (i, d)"
            " where d.drift_id = x.i",
            list(repairs),
            list(repairs.values()),
        )
        return repairs

    async def _tell_again(self, tx: Transaction, records: Sequence[Any]) -> None:
        keys = [row["tenant_id"] for row in records], [row["deployment_id"] for row in records]
        unfoldings = [Unfolding(row) for row in await lock_deployments(tx, *keys)]
        for item in unfoldings:
            item.tell_again()
        await save(tx, self._service, unfoldings)

    async def _count(self) -> None:
        async with self._service.consumer_db.unscoped() as tx:
            rows = await tx.fetch("select kind, count(*) from drift where resolved_at is null group by kind")
        count = {row["kind"]: row["count"] for row in rows}
        for kind in Kind:
            metrics.DRIFTS_OPEN.labels(kind).set(count.get(kind, 0))


def _record(row: Any) -> Record | None:
    """Return what is known of a tenant; nothing where only neutral ones are, or nothing at all."""
    if row is None or row["deployment_id"] is None:
        return None
    return Record(
        row["deployment_id"], row["operation"], row["status"], row["stuck"], row["brought"], bool(row["leaving"])
    )


def _found(row: Any, deployment_id: UUID | None) -> Outgoing:
    told = {name: row[name] for name in ("drift_id", "tenant_id", "kind", "detail", "remedy")}
    return Outgoing(DriftFound(**told, deployment_id=deployment_id), row["version"])


def _resolved(row: Any) -> Outgoing:
    told = {name: row[name] for name in ("drift_id", "tenant_id", "kind")}
    return Outgoing(DriftResolved(**told), row["version"])
