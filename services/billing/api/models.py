"""Shapes of requests and answers."""

from datetime import date, datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from chassis.http.fields import Currency, Day, Whole
from chassis.http.fields import ShortText as Text
from chassis.http.models import RowView, Strict

Code = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9_.-]+$")]
_LARGEST = 10**15


class Money(Strict):
    """An amount in the minor units of a currency: 2985 USD is 29.85 US dollars."""

    amount_minor: Whole = Field(ge=0, le=_LARGEST)
    currency: Currency

    @classmethod
    def of(cls, amount_minor: int, currency: str) -> "Money":
        return cls.model_construct(amount_minor=amount_minor, currency=currency)


class PositiveMoney(Money):
    """An amount of more than nothing."""

    amount_minor: Whole = Field(ge=1, le=_LARGEST)


class AccountView(RowView):
    """A customer's billing account."""

    KEY = "account_id"

    id: UUID
    customer_id: UUID
    external_reference: str | None
    name: str | None = Field(
        description="Of a tenant that the platform bills; an ISP's customers tell theirs themselves."
    )
    contact_email: str | None
    currency: str
    status: str = Field(description="open or closed")
    version: int
    created_at: datetime
    updated_at: datetime


class PlanData(Strict):
    code: Code
    name: Text
    price: Money


class PlanChange(Strict):
    name: Text | None = None
    price: Money | None = None
    unit_price: Money | None = Field(None, description="Of a metered plan only.")


def _unit_price(row: Any) -> Money | None:
    minor = row["unit_price_minor"]
    return None if minor is None else Money.of(minor, row["currency"])


class PlanView(BaseModel):
    """A plan that can be subscribed to."""

    id: UUID
    code: str
    name: str
    price: Money
    unit_price: Money | None = Field(description="A month for each active customer, where these are metered.")
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Any) -> "PlanView":
        plain = {name: row[name] for name in ("code", "name", "version", "created_at", "updated_at")}
        price, unit_price = Money.of(row["price_minor"], row["currency"]), _unit_price(row)
        return cls(id=row["plan_id"], price=price, unit_price=unit_price, **plain)


_BY_ID: JsonDict = {"customer_id": {"type": "string"}, "customer_external_reference": {"type": "null"}}
_BY_REFERENCE: JsonDict = {"customer_external_reference": {"type": "string"}, "customer_id": {"type": "null"}}


class OrderData(Strict):
    """A subscription to activate, for a customer named by id or by external reference."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [
                {"required": ["customer_id"], "properties": _BY_ID},
                {"required": ["customer_external_reference"], "properties": _BY_REFERENCE},
            ]
        },
    )

    customer_id: UUID | None = None
    customer_external_reference: Text | None = None
    plan_code: Code
    price: Money | None = Field(None, description="A price of its own instead of the plan's.")
    started_on: Day | None = Field(None, description="From 2000 to 2100; the first of this month without one.")

    @model_validator(mode="after")
    def _one_customer(self) -> Self:
        if (self.customer_id is None) == (self.customer_external_reference is None):
            raise ValueError("name the customer by customer_id or by customer_external_reference")
        return self


class BulkOrder(Strict):
    items: list[OrderData] = Field(min_length=1, max_length=1000)


class RejectedOrder(BaseModel):
    index: int
    reason: str


class BulkResult(BaseModel):
    """What became of the orders; `index` counts from 0."""

    created: int
    unchanged: int
    rejected: list[RejectedOrder]


class SubscriptionView(BaseModel):
    """A subscription of an account to a plan."""

    id: UUID
    account_id: UUID
    plan_id: UUID
    price: Money
    unit_price: Money | None = Field(description="A month for each active customer, where these are metered.")
    started_on: date
    cancelled_on: date | None
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Any) -> "SubscriptionView":
        names = ("account_id", "plan_id", "started_on", "cancelled_on", "version", "created_at", "updated_at")
        price = Money.of(row["price_minor"], row["currency"])
        return cls(
            id=row["subscription_id"], price=price, unit_price=_unit_price(row), **{name: row[name] for name in names}
        )


class RunOrder(Strict):
    period: str = Field(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$", examples=["2026-10"])


class RunView(BaseModel):
    """A billing run and how far it is."""

    id: UUID
    period: str
    status: str = Field(description="queued, running or completed")
    processed: int
    invoices: int
    total: Money
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Any) -> "RunView":
        plain = {name: row[name] for name in ("status", "processed", "invoices", "created_at", "finished_at")}
        total = Money.of(row["total_minor"], row["currency"])
        return cls(id=row["run_id"], period=f"{row['period_start']:%Y-%m}", total=total, **plain)


class LineView(BaseModel):
    subscription_id: UUID
    description: str
    quantity: int | None = Field(None, description="How many were metered, if it is for them.")
    amount: Money


class InvoiceView(BaseModel):
    """An invoice."""

    id: UUID
    account_id: UUID
    customer_id: UUID
    number: str
    status: str = Field(description="open or paid")
    period_start: date
    period_end: date
    issued_at: datetime
    due_on: date
    total: Money
    paid: Money
    version: int
    lines: list[LineView] | None = Field(None, description="On a single invoice only.")

    @classmethod
    def of(cls, row: Any, lines: list[Any] | None = None) -> "InvoiceView":
        names = ("account_id", "customer_id", "number", "period_start", "period_end", "issued_at", "due_on", "version")
        currency = row["currency"]
        return cls(
            id=row["invoice_id"],
            status="paid" if row["paid_minor"] == row["total_minor"] else "open",
            total=Money.of(row["total_minor"], currency),
            paid=Money.of(row["paid_minor"], currency),
            lines=None
            if lines is None
            else [
                LineView(
                    subscription_id=line["subscription_id"],
                    description=line["description"],
                    quantity=line["quantity"],
                    amount=Money.of(line["amount_minor"], currency),
                )
                for line in lines
            ],
            **{name: row[name] for name in names},
        )


class PaymentData(Strict):
    account_id: UUID
    amount: PositiveMoney
    method: Text
    reference: Text | None = None


class PaymentView(BaseModel):
    """A payment and how much of it paid invoices."""

    id: UUID
    account_id: UUID
    amount: Money
    allocated: Money
    method: str
    reference: str | None
    received_at: datetime

    @classmethod
    def of(cls, row: Any) -> "PaymentView":
        names = ("account_id", "method", "reference", "received_at")
        return cls(
            id=row["payment_id"],
            amount=Money.of(row["amount_minor"], row["currency"]),
            allocated=Money.of(row["allocated_minor"], row["currency"]),
            **{name: row[name] for name in names},
        )


class Count(BaseModel):
    count: int


class InvoiceSummary(BaseModel):
    """How many invoices there are, and what they sum to."""

    count: int
    total: Money


class WorkspaceView(BaseModel):
    """The tenant's place in billing."""

    tenant_id: UUID
    currency: str
    time_zone: str
    invoice_prefix: str = Field(description="What the numbers of invoices begin with.")
    payment_terms_days: int = Field(description="Within how many days invoices are to be paid that are issued now.")
    created_at: datetime
