"""How a tenant's workspaces are prepared, where its deployment says so."""

from pydantic import BaseModel, ConfigDict, Field

from dotmac_contracts.money import Money


class StarterPlan(BaseModel):
    """A plan that the ISP has to begin with, for it to change."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: str = Field(description="Its code, unique within the ISP.", examples=["FIBER"])
    name: str = Field(description="Its name.", examples=["Fiber"])
    price: Money = Field(description="Its price a month.")


class WorkspaceParameters(BaseModel):
    """How to prepare a tenant's workspaces; what is null is as it usually is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    payment_terms_days: int | None = Field(
        default=None, description="Days from an invoice's issue to the day it is due.", examples=[30]
    )
    invoice_prefix: str | None = Field(
        default=None, description="What the numbers of invoices begin with.", examples=["ACME"]
    )
    starter_plans: tuple[StarterPlan, ...] | None = Field(
        default=None, description="The plans that there are to begin with."
    )
