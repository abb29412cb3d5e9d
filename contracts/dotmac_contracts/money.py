"""Money in events."""

from pydantic import BaseModel, ConfigDict, Field


class Money(BaseModel):
    """An amount in the minor units of a currency: 2985 USD is 29.85 US dollars."""

    model_config = ConfigDict(frozen=True)

    amount_minor: int = Field(description="Amount in minor units of the currency.", examples=[2985])
    currency: str = Field(pattern="^[A-Z]{3}$", description="ISO 4217 code.", examples=["USD"])
