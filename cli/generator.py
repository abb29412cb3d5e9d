"""Makes a subscriber file for trying the platform: the same seed gives the same file."""

import csv
import random
from pathlib import Path

_COLUMNS = (
    "customerID", "InternetService", "PhoneService", "MonthlyCharges", "PaymentMethod", "PaperlessBilling",
    "Churn", "Country", "City", "ZipCode",
)  # fmt: skip
_CITIES = (("Los Angeles", 90001), ("San Diego", 92101), ("Sacramento", 94203), ("Fresno", 93650))
_PAYMENT_METHODS = (
    "Electronic check",
    "Mailed check",
    "Bank transfer (automatic)",
    "Credit card (automatic)",
)
_PRICES_MINOR = {"Fiber optic": (6500, 11800), "DSL": (2500, 9400), "No": (1800, 2700)}


def generate(path: Path, count: int = 1000, seed: int = 20260101) -> None:
    """Write `count` subscribers as CSV; about a quarter have left. Prices are decimals with two digits."""
    chance = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for number in range(count):
            internet = chance.choice(tuple(_PRICES_MINOR))
            price = chance.randint(*_PRICES_MINOR[internet])
            city, postal_code = chance.choice(_CITIES)
            writer.writerow(
                (
                    f"{number:06d}-{chance.randbytes(3).hex().upper()}",
                    internet,
                    "Yes" if internet == "No" else chance.choice(("Yes", "No")),
                    f"{price // 100}.{price % 100:02d}",
                    chance.choice(_PAYMENT_METHODS),
                    chance.choice(("Yes", "No")),
                    "Yes" if chance.random() < 0.26 else "No",
                    "United States",
                    city,
                    postal_code + chance.randrange(50),
                )
            )
