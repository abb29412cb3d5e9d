"""Shapes of requests and answers."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# PostgreSQL stores no NUL, and nobody's name has control characters.
Text = Annotated[
    str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Email = Annotated[
    str, StringConstraints(max_length=254, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+\.[^@\s\x00-\x1f]+$")
]


class TenantRegistration(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text
    slug: Annotated[str, Field(min_length=3, max_length=40, examples=["acme"])]
    contact_email: Email
    plan: Text
    currency: Annotated[str, Field(min_length=3, max_length=3, examples=["USD"])]
    country: Annotated[str, Field(min_length=2, max_length=2, examples=["US"])]
    time_zone: Annotated[str, Field(max_length=64, examples=["America/New_York"])]


class TenantChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text | None = None
    contact_email: Email | None = None
    plan: Text | None = None
    country: Annotated[str, Field(min_length=2, max_length=2)] | None = None
    time_zone: Annotated[str, Field(max_length=64)] | None = None


class TenantView(BaseModel):
    """An ISP on the platform."""

    id: UUID
    name: str
    slug: str
    contact_email: str
    plan: str
    currency: str
    country: str
    time_zone: str
    status: str = Field(description="registered, deploying, active or failed")
    deployment_id: UUID | None
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Any) -> "TenantView":
        return cls(id=row["tenant_id"], **{name: row[name] for name in cls.model_fields if name != "id"})


class DeploymentOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tenant_id: UUID


class DeploymentAccepted(BaseModel):
    """A deployment to follow at its Location."""

    deployment_id: UUID
    tenant_id: UUID


class InvitationView(BaseModel):
    """The invitation of a tenant's first administrator; its token is shown this once."""

    token: str
    email: str
    expires_at: datetime
