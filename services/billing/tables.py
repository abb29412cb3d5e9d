"""Storage of plans and subscriptions."""

from typing import Any

from dotmac_contracts.money import Money


def prices(row: Any) -> dict[str, Any]:
    """Return what a row of `plan` or `subscription` asks a month, by the names that events have for it."""
    minor, currency = row["unit_price_minor"], row["currency"]
    return {
        "price": Money(amount_minor=row["price_minor"], currency=currency),
        "unit_price": None if minor is None else Money(amount_minor=minor, currency=currency),
    }
