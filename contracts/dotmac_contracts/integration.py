"""Events of what a tenant's own systems are told of."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from dotmac_contracts import topics
from dotmac_contracts.departure import DataDeleted, DataExported
from dotmac_contracts.envelope import Event


class _Endpoint(Event):
    endpoint_id: UUID = Field(description="The webhook endpoint.")
    tenant_id: UUID = Field(description="The ISP.")
    host: str = Field(
        description="Where it is; never the whole URL, which may hold a secret.", examples=["hooks.acme.example"]
    )
    event_types: list[str] = Field(
        description="The types it is sent; all if there are none.", examples=[["dotmac.billing.InvoiceIssued"]]
    )
    description: str | None = Field(default=None, description="What it is for.", examples=["Accounting"])
    enabled: bool = Field(description="Whether it is sent events.")


class WebhookEndpointCreated(_Endpoint, topic=topics.INTEGRATION_WEBHOOK):
    """A webhook endpoint was created."""


class WebhookEndpointUpdated(_Endpoint, topic=topics.INTEGRATION_WEBHOOK):
    """A webhook endpoint was changed; all fields are the present ones."""


class WebhookSecretRotated(Event, topic=topics.INTEGRATION_WEBHOOK):
    """A webhook endpoint has a new secret; the old one signs as well for a while."""

    endpoint_id: UUID = Field(description="The webhook endpoint.")
    tenant_id: UUID = Field(description="The ISP.")
    previous_until: datetime = Field(description="Until when the old secret signs as well, in UTC.")


class WebhookEndpointDisabled(Event, topic=topics.INTEGRATION_WEBHOOK):
    """A webhook endpoint failed for so long, or is gone, that it is sent nothing any more until it is enabled again."""

    endpoint_id: UUID = Field(description="The webhook endpoint.")
    tenant_id: UUID = Field(description="The ISP.")
    reason: str = Field(description="Why, for a person to act on.", examples=["it has failed for 72 hours"])
    failing_since: datetime = Field(description="When it began to fail, in UTC.")


class WebhookEndpointDeleted(Event, topic=topics.INTEGRATION_WEBHOOK):
    """A webhook endpoint was deleted."""

    endpoint_id: UUID = Field(description="The webhook endpoint.")
    tenant_id: UUID = Field(description="The ISP.")


class IntegrationDataExported(DataExported, topic=topics.INTEGRATION_DEPARTURE):
    """The integration service has written a tenant's data down, or could not."""


class IntegrationDataDeleted(DataDeleted, topic=topics.INTEGRATION_DEPARTURE):
    """The integration service has deleted a tenant's data, and has counted what is left."""
