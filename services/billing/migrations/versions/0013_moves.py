"""A tenant can move to another place, with its rows."""

from alembic import op

from chassis.persistence.schema import let_tenants_move, service_name

revision = "0013"
down_revision = "0012"

_TRIGGERS = {
    "insert": "new table as later",
    "update": "old table as earlier new table as later",
    "delete": "old table as earlier",
}


def upgrade() -> None:
    # The platform's meter stays: it counts a tenant's customers wherever the tenant is.
    let_tenants_move(but=["active_customers"])
    # And so it does not count accounts that come or go with their tenant.
    for event, tables in _TRIGGERS.items():
        op.execute(
            f"create or replace trigger metered_{event} after {event} on billing_account referencing {tables}"
            f" for each statement when (current_user <> '{service_name()}_owner')"
            " execute function meter_active_customers()"
        )
