"""A tenant moves from one place to another: what a service knows of it. Who moves it is provisioning.

Each place's database says in `moving` whose rows are held there. The database itself then refuses to change them, to
instances of every release: consumers and workers try again later, and the API answers 503.
"""

from uuid import UUID

from chassis.persistence.database import Database


def unheld(table: str) -> str:
    """Return the condition that a row of a table is of no tenant that is held: its work waits."""
    return f"not exists (select from moving m where m.tenant_id = {table}.tenant_id and m.held <> 'nothing')"


async def moved_by(db: Database) -> UUID | None:
    """Return the deployment that brings, or has brought, its tenant to an instance; None if it was deployed there.

    db: that of an instance of a tenant's own, as the consumer.
    """
    async with db.unscoped() as tx:
        found: UUID | None = await tx.fetchval("select deployment_id from moving where arrives")
    return found
