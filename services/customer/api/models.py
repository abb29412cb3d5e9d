"""Shapes of requests and answers."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field, StrictBool

from chassis.http.fields import PLAIN, Country, Email, ShortText, Text
from chassis.http.models import RowView, Strict


class CustomerData(Strict):
    """What is known of a customer."""

    external_reference: ShortText | None = Field(None, description="Its id in your systems.")
    name: Text
    email: Email | None = None
    phone: str | None = Field(None, max_length=40, pattern=PLAIN)
    city: str | None = Field(None, max_length=100, pattern=PLAIN)
    postal_code: str | None = Field(None, max_length=20, pattern=PLAIN)
    country: Country | None = None
    payment_method: str | None = Field(None, max_length=40, pattern=PLAIN)
    paperless_billing: StrictBool = False


class CustomerChange(CustomerData):
    """The fields to change; null clears one."""

    name: Text = Field(default_factory=str)


class CustomerView(BaseModel):
    """A customer."""

    id: UUID
    external_reference: str | None
    name: str
    email: str | None
    phone: str | None
    city: str | None
    postal_code: str | None
    country: str | None
    payment_method: str | None
    paperless_billing: bool
    status: str = Field(description="active or terminated")
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Any) -> "CustomerView":
        return cls.model_construct(
            id=row["customer_id"], **{name: row[name] for name in cls.model_fields if name != "id"}
        )


class Termination(Strict):
    reason: str | None = Field(None, max_length=500, pattern=r"^[^\x00]*$")


class Summary(BaseModel):
    """How many customers there are."""

    total: int
    active: int
    terminated: int


class ImportView(RowView):
    """An import and how far it is."""

    KEY = "import_id"

    id: UUID
    status: str = Field(description="uploading, queued, running or completed")
    total: int
    processed: int
    created: int
    updated: int
    unchanged: int
    rejected: int
    created_at: datetime
    finished_at: datetime | None


class RejectionView(BaseModel):
    """A row that was not imported, and why."""

    line: int
    reason: str
    row: Any


class CustomerQuota(BaseModel):
    """How many active customers the tenant's plan allows, without a limit if null, and how many there are."""

    limit: int | None
    used: int


class WorkspaceView(BaseModel):
    """The tenant's place in the customer service."""

    tenant_id: UUID
    name: str
    country: str
    time_zone: str
    created_at: datetime
    customer_quota: CustomerQuota | None = Field(description="Null until the plan is known.")
