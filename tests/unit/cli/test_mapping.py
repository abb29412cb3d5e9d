import csv
from pathlib import Path

import pytest

from chassis.money import Money
from cli.generator import generate
from cli.mapping import MappingError, read_mapping, read_subscribers
from tests.subscribers import MAPPING, PUBLISHED


def test_a_row_becomes_a_customer_and_a_subscription_as_the_mapping_says(tmp_path: Path) -> None:
    file = tmp_path / "subscribers.csv"
    columns = {
        "customerID": "A-1",
        "City": "Fresno",
        "ZipCode": "93650",
        "Country": "United States",
        "PaymentMethod": "Mailed check",
        "PaperlessBilling": "No",
        "Churn": "No",
        "InternetService": "DSL",
        "PhoneService": "Yes",
        "MonthlyCharges": "56.95",
    }
    with file.open("w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(columns)
        writer.writerow(columns.values())
        writer.writerow({**columns, "customerID": "A-2", "Churn": "Yes"}.values())
    staying, gone = read_subscribers(file, read_mapping(MAPPING), "USD")
    assert staying.customer == {
        "external_reference": "A-1",
        "name": "Subscriber A-1",
        "city": "Fresno",
        "postal_code": "93650",
        "country": "US",
        "payment_method": "mailed_check",
        "paperless_billing": False,
        "status": "active",
    }
    assert (staying.plan_code, staying.price) == ("DSL", Money(5695, "USD"))
    assert gone.customer["status"] == "terminated"
    assert gone.subscription() is None


def test_a_value_that_the_mapping_does_not_list_is_named(tmp_path: Path) -> None:
    file = tmp_path / "subscribers.csv"
    generate(file, 3)
    file.write_text(file.read_text().replace("United States", "Atlantis"))
    with pytest.raises(MappingError, match="Atlantis"):
        list(read_subscribers(file, read_mapping(MAPPING), "USD"))


def test_an_unknown_key_in_a_mapping_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mapping.yaml"
    file.write_text("customer: {}\nsubscription: {plans: [], price: P, surprise: 1}\n")
    with pytest.raises(MappingError, match="surprise"):
        read_mapping(file)


def test_the_generator_makes_the_same_file_from_the_same_seed(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    generate(first, 200, seed=1)
    generate(second, 200, seed=1)
    generate(other, 200, seed=2)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    rows = list(read_subscribers(first, read_mapping(MAPPING), "USD"))
    assert len({row.customer["external_reference"] for row in rows}) == 200
    assert 0 < sum(row.plan_code is None for row in rows) < 100


def test_the_published_file_holds_the_month_that_must_be_billed() -> None:
    if not PUBLISHED.exists():
        pytest.skip(f"the published subscriber file is not at {PUBLISHED}")
    rows = list(read_subscribers(PUBLISHED, read_mapping(MAPPING), "USD"))
    prices = [row.price for row in rows if row.plan_code and row.price]
    assert (len(rows), len(prices)) == (7043, 5174)
    assert sum(prices, Money.zero("USD")).format() == "316,985.75 USD"
