"""Whoever seals webhooks' secrets anew learns which tenants have any."""

from chassis.messaging.schema import let_tenants_be_listed

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    let_tenants_be_listed("webhook_endpoint")
