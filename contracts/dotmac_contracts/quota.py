"""How much a tenant's plan allows, and what is said when that is nearly, or wholly, used."""

from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from dotmac_contracts.envelope import Event


class Quotas(BaseModel):
    """What a plan allows; of what is null, as much as one likes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    customers: int | None = Field(default=None, ge=1, description="Active customers at most.", examples=[1000])
    users: int | None = Field(default=None, ge=1, description="Users at most.", examples=[10])
    api_calls_a_minute: int | None = Field(
        default=None, ge=1, description="Requests of all its users together in a minute, at most.", examples=[600]
    )


class QuotaThreshold(Event):
    """Shared: a share of a quota is used."""

    tenant_id: UUID = Field(description="The tenant.")
    percent: int = Field(description="The share that was reached: 80 or 100.", examples=[80])
    limit: int = Field(description="What the tenant's plan allows.", examples=[1000])
    used: int = Field(description="How much of it is used now.", examples=[800])
