"""Events of an ISP's billing."""

from datetime import date, datetime
from uuid import UUID

from pydantic import Field

from dotmac_contracts import topics
from dotmac_contracts.departure import DataDeleted, DataExported
from dotmac_contracts.envelope import Event, Tombstone
from dotmac_contracts.money import Money


class BillingWorkspaceReady(Event, topic=topics.BILLING_WORKSPACE):
    """Billing has prepared a tenant's workspace: settings, invoice numbering, starter plans."""

    tenant_id: UUID = Field(description="The tenant.")
    deployment_id: UUID = Field(description="The deployment that asked for it.")


class BillingWorkspaceRemoved(Event, topic=topics.BILLING_WORKSPACE):
    """Billing has removed a tenant's workspace."""

    tenant_id: UUID = Field(description="The tenant.")
    deployment_id: UUID = Field(description="The deployment that failed.")


class _Account(Event):
    account_id: UUID = Field(description="The billing account.")
    tenant_id: UUID = Field(description="The ISP.")
    customer_id: UUID = Field(description="The customer it bills.")


class BillingAccountOpened(_Account, topic=topics.BILLING_ACCOUNT):
    """A billing account was opened for a customer."""

    currency: str = Field(description="ISO 4217 code in which it is billed.", examples=["USD"])
    external_reference: str | None = Field(
        default=None, description="The customer's id in the ISP's own systems.", examples=["7590-VHVEG"]
    )


class BillingAccountUpdated(_Account, topic=topics.BILLING_ACCOUNT):
    """What a billing account says of its customer changed; all fields are the present ones."""

    external_reference: str | None = Field(
        default=None, description="The customer's id in the ISP's own systems.", examples=["7590-VHVEG"]
    )


class BillingAccountClosed(_Account, topic=topics.BILLING_ACCOUNT):
    """A billing account was closed: its customer is served no longer."""


class _Plan(Event):
    plan_id: UUID = Field(description="The plan.")
    tenant_id: UUID = Field(description="The ISP.")
    code: str = Field(description="Its code, unique within the ISP.", examples=["FIBER"])
    name: str = Field(description="Its name.", examples=["Fiber"])
    price: Money = Field(description="Its price a month.")
    unit_price: Money | None = Field(
        default=None, description="What it asks a month for each active customer, if these are metered."
    )


class PlanPublished(_Plan, topic=topics.BILLING_PLAN):
    """A plan can be subscribed to."""


class PlanChanged(_Plan, topic=topics.BILLING_PLAN):
    """A plan's name or price changed."""


class _Subscription(Event):
    subscription_id: UUID = Field(description="The subscription.")
    tenant_id: UUID = Field(description="The ISP.")
    account_id: UUID = Field(description="The billing account that pays.")
    customer_id: UUID = Field(description="The customer.")
    plan_id: UUID = Field(description="The plan.")
    price: Money = Field(description="Its price a month: the plan's, or one of its own.")
    unit_price: Money | None = Field(
        default=None, description="What it asks a month for each active customer, if these are metered."
    )
    started_on: date = Field(description="The first day that is billed.")


class SubscriptionActivated(_Subscription, topic=topics.BILLING_SUBSCRIPTION):
    """A customer subscribed to a plan."""


class SubscriptionSnapshot(_Subscription, topic=topics.BILLING_SUBSCRIPTION_SNAPSHOT):
    """A subscription as it is now; what was told of it before need not be known."""

    cancelled_on: date | None = Field(
        default=None, description="The first day that is not billed, if it ended.", examples=["2026-03-01"]
    )
    created_at: datetime = Field(description="When it was made, in UTC.")
    updated_at: datetime = Field(description="When it last changed, in UTC.")


class SubscriptionSnapshotRemoved(Tombstone, topic=topics.BILLING_SUBSCRIPTION_SNAPSHOT):
    """A subscription is gone: its ISP has left the platform, and forget it too."""

    subscription_id: UUID = Field(description="The subscription.")
    tenant_id: UUID = Field(description="The ISP.")


class SubscriptionCancelled(Event, topic=topics.BILLING_SUBSCRIPTION):
    """A subscription ended."""

    subscription_id: UUID = Field(description="The subscription.")
    tenant_id: UUID = Field(description="The ISP.")
    account_id: UUID = Field(description="The billing account.")
    cancelled_on: date = Field(description="The first day that is not billed.")


class InvoiceIssued(Event, topic=topics.BILLING_INVOICE):
    """An invoice was issued."""

    invoice_id: UUID = Field(description="The invoice.")
    tenant_id: UUID = Field(description="The ISP.")
    account_id: UUID = Field(description="The billing account that owes it.")
    customer_id: UUID = Field(description="The customer.")
    number: str = Field(description="Its number, without gaps within the ISP.", examples=["INV-000001"])
    period_start: date = Field(description="The first day it bills.")
    period_end: date = Field(description="The day after the last day it bills.")
    issued_at: datetime = Field(description="When it was issued, in UTC.")
    due_on: date = Field(description="The day by which it is to be paid.")
    total: Money = Field(description="What is owed.")


class InvoicePartiallyPaid(Event, topic=topics.BILLING_INVOICE):
    """A payment paid a part of an invoice."""

    invoice_id: UUID = Field(description="The invoice.")
    tenant_id: UUID = Field(description="The ISP.")
    number: str = Field(description="Its number.", examples=["INV-000001"])
    payment_id: UUID = Field(description="The payment.")
    paid: Money = Field(description="What is paid of it by now.")
    total: Money = Field(description="What was owed.")


class InvoicePaid(Event, topic=topics.BILLING_INVOICE):
    """An invoice is paid in full."""

    invoice_id: UUID = Field(description="The invoice.")
    tenant_id: UUID = Field(description="The ISP.")
    number: str = Field(description="Its number.", examples=["INV-000001"])
    paid_at: datetime = Field(description="When it was paid in full, in UTC.")
    total: Money = Field(description="What was owed.")


class PaymentReceived(Event, topic=topics.BILLING_PAYMENT):
    """A payment was received, and allocated to open invoices, the oldest first."""

    payment_id: UUID = Field(description="The payment.")
    tenant_id: UUID = Field(description="The ISP.")
    account_id: UUID = Field(description="The billing account that paid.")
    amount: Money = Field(description="What was paid.")
    method: str = Field(description="How it was paid.", examples=["bank_transfer"])
    received_at: datetime = Field(description="When, in UTC.")
    allocated: Money = Field(description="The part that paid invoices.")
    unallocated: Money = Field(description="The part that stays as credit.")


class BillingDataExported(DataExported, topic=topics.BILLING_DEPARTURE):
    """The billing service has written a tenant's data down, or could not."""


class BillingDataDeleted(DataDeleted, topic=topics.BILLING_DEPARTURE):
    """The billing service has deleted a tenant's data, and has counted what is left."""
