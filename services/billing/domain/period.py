"""The month that is billed, and what a subscription costs in it."""

import re
from dataclasses import dataclass
from datetime import date, timedelta

from chassis.money import Money


@dataclass(frozen=True, slots=True)
class Period:
    """A calendar month: `start` is its first day, `end` the first day after it."""

    start: date
    end: date

    @classmethod
    def parse(cls, text: str) -> "Period":
        """Read `2026-10`; ValueError if it isn't a month."""
        if not re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", text, re.ASCII):
            raise ValueError(f"{text!r} is not a month such as 2026-10")
        year, month = int(text[:4]), int(text[5:])
        return cls(date(year, month, 1), date(year + month // 12, month % 12 + 1, 1))

    @classmethod
    def before(cls, day: date) -> "Period":
        """Return the month before that of a day: the last that is over then."""
        end = day.replace(day=1)
        return cls((end - timedelta(days=1)).replace(day=1), end)

    def is_over(self, today: date) -> bool:
        """Whether it is, on a day."""
        return self.end <= today

    @property
    def days(self) -> int:
        return (self.end - self.start).days


def charge(price: Money, period: Period, started_on: date, cancelled_on: date | None) -> Money:
    """Return the month's price, in proportion to the days of the subscription, rounded half to even."""
    first = max(period.start, started_on)
    last = min(period.end, cancelled_on or period.end)
    days = max(0, (last - first).days)
    return price if days == period.days else price.multiply_ratio(days, period.days)


INVOICE_PREFIX = "INV"
"""What numbers of invoices begin with, where the deployment said nothing else."""


def invoice_number(number: int, prefix: str = INVOICE_PREFIX) -> str:
    """Return the number of the nth invoice, as in `INV-000001`."""
    return f"{prefix}-{number:06d}"
