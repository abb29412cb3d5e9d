"""Work through an import, a chunk a transaction: it can stop anywhere and goes on where it stopped."""

from typing import Any
from uuid import UUID

from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.moving import unheld
from chassis.persistence.database import Transaction
from chassis.security.actors import Actor, acting
from chassis.service import Service
from chassis.telemetry import traces
from dotmac_contracts.customer import CustomerCreated, CustomerUpdated
from services.customer import metrics
from services.customer.domain.customer import FIELDS, Invalid, clean
from services.customer.tables import COLUMNS, Row, insert_customers, update_customers
from services.customer.use_cases.count_customers import count, lock_usage

Rejection = tuple[int, str, Any]


async def run_import(service: Service) -> bool:
    """Do the next chunk of the oldest import; False if there is none."""
    async with service.consumer_db.unscoped() as tx:
        job = await tx.fetchrow(
            "select tenant_id, import_id, traceparent, actor from customer_import"
            f" where finished_at is null and status <> 'uploading' and {unheld('customer_import')}"
            " order by created_at limit 1"
        )
    if job is None:
        return await _forget_abandoned_upload(service)
    tenant_id, import_id = job["tenant_id"], job["import_id"]
    attributes = {traces.TENANT: str(tenant_id), "dotmac.import.id": str(import_id)}
    with acting(Actor.kept(job["actor"])), traces.span("import a chunk", attributes, parent=job["traceparent"]):
        await _next_chunk(service, tenant_id, import_id)
    return True


async def _next_chunk(service: Service, tenant_id: UUID, import_id: UUID) -> None:
    async with service.consumer_db.for_tenants([tenant_id]) as tx:
        # The job's row first: two workers take turns, and both see what the other has done.
        state = await tx.fetchrow(
            "select finished_at from customer_import where tenant_id = $1 and import_id = $2"
            f" and {unheld('customer_import')} for update",
            tenant_id,
            import_id,
        )
        if state is None or state["finished_at"] is not None:
            return
        chunk = await tx.fetchrow(
            "delete from import_chunk where (tenant_id, import_id, first_line) ="
            " (select tenant_id, import_id, first_line"
            " from import_chunk where tenant_id = $1 and import_id = $2 order by first_line limit 1) returning rows",
            tenant_id,
            import_id,
        )
        if chunk is None:
            await tx.execute(
                "update customer_import set status = 'completed', finished_at = now()"
                " where tenant_id = $1 and import_id = $2",
                tenant_id,
                import_id,
            )
            await tx.execute(
                "delete from import_seen where tenant_id = $1 and import_id = $2",
                tenant_id,
                import_id,
            )
            return
        await _apply(tx, service, tenant_id, import_id, chunk["rows"])


async def _forget_abandoned_upload(service: Service) -> bool:
    """Remove an upload whose process died; False if there is none."""
    async with service.consumer_db.unscoped() as tx:
        upload = await tx.fetchrow(
            "select tenant_id, import_id from customer_import"
            " where status = 'uploading' and created_at < now() - interval '1 day' limit 1"
        )
    if upload is None:
        return False
    async with service.consumer_db.for_tenants([upload["tenant_id"]]) as tx:
        await tx.execute("delete from customer_import where (tenant_id, import_id) = ($1, $2)", *upload.values())
    return True


async def _apply(tx: Transaction, service: Service, tenant_id: UUID, import_id: UUID, lines: list[Any]) -> None:
    rejections: list[Rejection] = []
    candidates: list[tuple[int, dict[str, Any], Any]] = []
    for number, row in lines:
        try:
            if isinstance(row, str):
                raise Invalid(row)
            candidates.append((number, clean(row), row))
        except Invalid as error:
            rejections.append((number, str(error), row))
    candidates = await _without_repeats(tx, tenant_id, import_id, candidates, rejections)
    existing = await _lock_existing(tx, tenant_id, candidates)
    usage = await lock_usage(tx, tenant_id)
    created: list[Row] = []
    updated: list[Row] = []
    unchanged = added = 0
    outgoing: list[Outgoing] = []
    for number, fields, row in candidates:
        known = existing.get(fields["external_reference"])
        if known is None and fields["status"] == "active" and not usage.has_room(added):
            rejections.append((number, f"quota-exceeded: the plan allows {usage.limit:,} customers", row))
        elif known is None:
            added += fields["status"] == "active"
            customer_id = new_id()
            created.append((customer_id, 1, fields))
            outgoing.append(Outgoing(CustomerCreated(customer_id=customer_id, tenant_id=tenant_id, **fields), 1))
        elif all(known[name] == fields[name] for name in FIELDS):
            unchanged += 1
        elif known["status"] == "terminated":
            rejections.append((number, "the customer is terminated and can't be changed", row))
        else:
            customer_id, version = known["customer_id"], known["version"] + 1
            added -= fields["status"] == "terminated"
            updated.append((customer_id, version, fields))
            event = CustomerUpdated(customer_id=customer_id, tenant_id=tenant_id, **fields)
            outgoing.append(Outgoing(event, version))
    if added:
        outgoing += await count(tx, tenant_id, added)
    await insert_customers(tx, tenant_id, created)
    await update_customers(tx, tenant_id, updated)
    for status in ("active", "terminated"):
        metrics.created(tx, status, sum(fields["status"] == status for _, _, fields in created))
    metrics.terminated(tx, sum(fields["status"] == "terminated" for _, _, fields in updated))
    await publish(tx, outgoing, source=service.source, clock=service.clock)
    await tx.execute(
        'insert into import_rejection (tenant_id, import_id, line, reason, "row")'
        " select $1, $2, * from unnest($3::int[], $4::text[], $5::jsonb[])",
        tenant_id,
        import_id,
        *([list(column) for column in zip(*rejections, strict=True)] or [[], [], []]),
    )
    await tx.execute(
        "update customer_import set status = 'running', processed = processed + $3, created = created + $4,"
        " updated = updated + $5, unchanged = unchanged + $6, rejected = rejected + $7"
        " where tenant_id = $1 and import_id = $2",
        tenant_id,
        import_id,
        len(lines),
        len(created),
        len(updated),
        unchanged,
        len(rejections),
    )


async def _without_repeats(
    tx: Transaction,
    tenant_id: UUID,
    import_id: UUID,
    candidates: list[tuple[int, dict[str, Any], Any]],
    rejections: list[Rejection],
) -> list[tuple[int, dict[str, Any], Any]]:
    """Keep the first row of each external reference in the file; reject the others, naming its line."""
    named = [(number, fields["external_reference"]) for number, fields, _ in candidates if fields["external_reference"]]
    await tx.execute(
        "insert into import_seen (tenant_id, import_id, line, external_reference)"
        " select $1, $2, * from unnest($3::int[], $4::text[]) on conflict do nothing",
        tenant_id,
        import_id,
        [number for number, _ in named],
        [reference for _, reference in named],
    )
    rows = await tx.fetch(
        "select external_reference, line from import_seen"
        " where tenant_id = $1 and import_id = $2 and external_reference = any($3::text[])",
        tenant_id,
        import_id,
        [reference for _, reference in named],
    )
    first = {row["external_reference"]: row["line"] for row in rows}
    kept = []
    for number, fields, row in candidates:
        line = first.get(fields["external_reference"], number)
        if line == number:
            kept.append((number, fields, row))
        else:
            rejections.append((number, f"line {line} has the same external_reference", row))
    return kept


async def _lock_existing(
    tx: Transaction, tenant_id: UUID, candidates: list[tuple[int, dict[str, Any], Any]]
) -> dict[str | None, Any]:
    references = [fields["external_reference"] for _, fields, _ in candidates if fields["external_reference"]]
    rows = await tx.fetch(
        f"select {COLUMNS} from customer where tenant_id = $1 and external_reference = any($2::text[])"
        " order by customer_id for update",
        tenant_id,
        references,
    )
    return {row["external_reference"]: row for row in rows}
