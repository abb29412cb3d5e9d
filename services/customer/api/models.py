"""Shapes of requests and answers."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class CustomerData(BaseModel):
    """What is known of a customer."""

    model_config = ConfigDict(extra="forbid")

    external_reference: str | None = Field(None, max_length=100, description="Its id in your systems.")
    name: str = Field(min_length=1, max_length=200)
    email: str | None = Field(None, max_length=254)
    phone: str | None = Field(None, max_length=40)
    city: str | None = Field(None, max_length=100)
    postal_code: str | None = Field(None, max_length=20)
    country: str | None = Field(None, min_length=2, max_length=2, description="ISO 3166-1 alpha-2")
    payment_method: str | None = Field(None, max_length=40)
    paperless_billing: bool = False


class CustomerChange(CustomerData):
    """The fields to change; null clears one."""

    name: str = Field("", max_length=200)


class CustomerView(CustomerData):
    """A customer."""

    model_config = ConfigDict(extra="ignore")

    id: UUID
    status: str = Field(description="active or terminated")
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Any) -> "CustomerView":
        return cls.model_construct(
            id=row["customer_id"], **{name: row[name] for name in cls.model_fields if name != "id"}
        )


class Termination(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(None, max_length=500, pattern=r"^[^\x00]*$")


class Summary(BaseModel):
    """How many customers there are."""

    total: int
    active: int
    terminated: int


class ImportView(BaseModel):
    """An import and how far it is."""

    id: UUID
    status: str = Field(description="queued, running or completed")
    total: int
    processed: int
    created: int
    updated: int
    unchanged: int
    rejected: int
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Any) -> "ImportView":
        return cls(id=row["import_id"], **{name: row[name] for name in cls.model_fields if name != "id"})


class RejectionView(BaseModel):
    """A row that was not imported, and why."""

    line: int
    reason: str
    row: Any


class WorkspaceView(BaseModel):
    """The tenant's place in the customer service."""

    tenant_id: UUID
    name: str
    country: str
    time_zone: str
    created_at: datetime
