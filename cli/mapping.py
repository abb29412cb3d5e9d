"""Turns the rows of any subscriber file into customers and subscriptions, as a mapping file says."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chassis.money import Money


class MappingError(Exception):
    """The mapping file, or a row under it, says something that can't be done."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Column(_Strict):
    """A column of the file, its values translated where `values` lists them."""

    column: str
    values: dict[str, str | bool] | None = None


class Template(_Strict):
    """A text with `{column}` where a column's value goes."""

    template: str


class PlanRule(_Strict):
    """A plan's code, and the columns' values that call for it."""

    plan: str
    if_: dict[str, str] = Field(alias="if")


class SubscriptionMapping(_Strict):
    only_if: dict[str, str] = {}
    plans: list[PlanRule]
    price: str
    """The column with the monthly price, a decimal in the tenant's currency."""


class Mapping(_Strict):
    """A mapping file. See examples/telco-subscribers.mapping.yaml."""

    customer: dict[str, str | Column | Template]
    subscription: SubscriptionMapping


@dataclass(frozen=True, slots=True)
class Subscriber:
    """One row: a customer as the import takes it, and its subscription as the bulk order takes it."""

    customer: dict[str, Any]
    plan_code: str | None
    price: Money | None

    def subscription(self) -> dict[str, Any] | None:
        """Return the item of a bulk order, or None for a customer without a subscription."""
        if self.plan_code is None or self.price is None:
            return None
        return {
            "customer_external_reference": self.customer["external_reference"],
            "plan_code": self.plan_code,
            "price": {"amount_minor": self.price.amount_minor, "currency": self.price.currency},
        }


def read_mapping(path: Path) -> Mapping:
    """Return the mapping in a YAML file; MappingError says what is wrong with it."""
    try:
        return Mapping.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeError, yaml.YAMLError, ValidationError) as error:
        raise MappingError(f"{path}: {error}") from error


def read_subscribers(path: Path, mapping: Mapping, currency: str) -> Iterator[Subscriber]:
    """Yield the subscribers of a CSV file with a header row, one at a time."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                yield _subscriber(row, mapping, currency)
            except (KeyError, ValueError) as error:
                raise MappingError(f"{path}: near line {row}: {error}") from error


def _subscriber(row: dict[str, str], mapping: Mapping, currency: str) -> Subscriber:
    customer = {name: _value(row, source) for name, source in mapping.customer.items()}
    rules = mapping.subscription
    if not _matches(row, rules.only_if):
        return Subscriber(customer, None, None)
    plan = next((rule.plan for rule in rules.plans if _matches(row, rule.if_)), None)
    if plan is None:
        raise ValueError("no plan rule matches")
    return Subscriber(customer, plan, Money.parse(row[rules.price], currency))


def _matches(row: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(row[column] == value for column, value in wanted.items())


def _value(row: dict[str, str], source: str | Column | Template) -> str | bool:
    if isinstance(source, str):
        return row[source]
    if isinstance(source, Template):
        return source.template.format_map(row)
    value = row[source.column]
    if source.values is None:
        return value
    if value not in source.values:
        raise ValueError(f"column {source.column} has {value!r}, which `values` does not list")
    return source.values[value]
