"""Events of an ISP's customers."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from dotmac_contracts import topics
from dotmac_contracts.departure import DataDeleted, DataExported
from dotmac_contracts.envelope import Event, Tombstone
from dotmac_contracts.quota import QuotaThreshold


class _Customer(Event):
    customer_id: UUID = Field(description="The customer.")
    tenant_id: UUID = Field(description="The ISP it belongs to.")
    external_reference: str | None = Field(
        default=None, description="Its id in the ISP's own systems.", examples=["7590-VHVEG"]
    )
    name: str = Field(description="Its name.", examples=["Ada Lovelace"])
    email: str | None = Field(default=None, description="Its address.", examples=["ada@example.com"])
    phone: str | None = Field(default=None, description="Its phone number.", examples=["+1 555 0100"])
    city: str | None = Field(default=None, description="Its city.", examples=["Los Angeles"])
    postal_code: str | None = Field(default=None, description="Its postal code.", examples=["90001"])
    country: str | None = Field(default=None, description="ISO 3166-1 alpha-2 code.", examples=["US"])
    status: Literal["active", "terminated"] = Field(description="Whether it is served.")
    payment_method: str | None = Field(default=None, description="How it pays.", examples=["electronic_check"])
    paperless_billing: bool = Field(description="Whether it gets invoices without paper.")


class CustomerCreated(_Customer, topic=topics.CUSTOMER):
    """A customer was created, or imported; an import may bring one that has already left."""


class CustomerUpdated(_Customer, topic=topics.CUSTOMER):
    """What is known of a customer changed; all fields are the present ones."""


class CustomerSnapshot(_Customer, topic=topics.CUSTOMER_SNAPSHOT):
    """A customer as it is now; what was told of it before need not be known."""

    created_at: datetime = Field(description="When it was created, in UTC.")
    updated_at: datetime = Field(description="When it last changed, in UTC.")


class CustomerSnapshotRemoved(Tombstone, topic=topics.CUSTOMER_SNAPSHOT):
    """A customer is gone: its ISP has left the platform, and forget it too."""

    customer_id: UUID = Field(description="The customer.")
    tenant_id: UUID = Field(description="The ISP it belonged to.")


class CustomerTerminated(Event, topic=topics.CUSTOMER):
    """A customer is served no longer."""

    customer_id: UUID = Field(description="The customer.")
    tenant_id: UUID = Field(description="The ISP it belonged to.")
    terminated_at: datetime = Field(description="When, in UTC.")
    reason: str | None = Field(default=None, description="Why, if it was said.", examples=["moved away"])


class CustomerWorkspaceReady(Event, topic=topics.CUSTOMER_WORKSPACE):
    """The customer service has prepared a tenant's workspace."""

    tenant_id: UUID = Field(description="The tenant.")
    deployment_id: UUID = Field(description="The deployment that asked for it.")


class CustomerWorkspaceRemoved(Event, topic=topics.CUSTOMER_WORKSPACE):
    """The customer service has removed a tenant's workspace."""

    tenant_id: UUID = Field(description="The tenant.")
    deployment_id: UUID = Field(description="The deployment that failed.")


class CustomerQuotaThresholdReached(QuotaThreshold, topic=topics.CUSTOMER_QUOTA):
    """A tenant uses 80 % of its quota of customers, or all of it; told once each time that it gets there."""


class CustomerDataExported(DataExported, topic=topics.CUSTOMER_DEPARTURE):
    """The customer service has written a tenant's data down, or could not."""


class CustomerDataDeleted(DataDeleted, topic=topics.CUSTOMER_DEPARTURE):
    """The customer service has deleted a tenant's data, and has counted what is left."""
