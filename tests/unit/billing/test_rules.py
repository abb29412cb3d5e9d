from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.money import Money
from services.billing.domain.allocation import allocate_oldest_first
from services.billing.domain.period import Period, charge, invoice_number

months = st.builds(
    lambda year, month: Period.parse(f"20{year:02d}-{month:02d}"), st.integers(0, 99), st.integers(1, 12)
)
prices = st.builds(Money, st.integers(0, 10**12), st.just("USD"))
amounts = st.integers(0, 10**12)


@given(months)
def test_a_month_ends_where_the_next_begins(period: Period) -> None:
    assert 28 <= period.days <= 31
    assert period.start.day == period.end.day == 1
    assert Period.parse(f"{period.end:%Y-%m}").start == period.end if period.end.year < 2100 else True


@given(months, st.integers(0, 30))
def test_the_month_before_is_the_last_that_is_over(period: Period, day: int) -> None:
    today = period.start + timedelta(days=min(day, period.days - 1))
    last = Period.before(today)
    assert (last.start.day, last.end) == (1, period.start)
    assert last.is_over(today)
    assert not period.is_over(today)
    assert last == Period.before(period.start)
    assert period.is_over(period.end)


@given(prices, months, st.integers(-40, 40), st.none() | st.integers(-40, 80))
def test_a_charge_is_never_more_than_the_price_and_the_price_for_a_whole_month(
    price: Money, period: Period, start: int, end: int | None
) -> None:
    started = period.start + timedelta(days=start)
    cancelled = None if end is None else max(started, period.start + timedelta(days=end))
    due = charge(price, period, started, cancelled)
    assert Money.zero("USD") <= due <= price
    if started <= period.start and (cancelled is None or cancelled >= period.end):
        assert due == price
    if started >= period.end or (cancelled is not None and cancelled <= period.start):
        assert due == Money.zero("USD")


@given(prices, months, st.integers(1, 27))
def test_two_subscriptions_that_follow_each_other_cost_a_month_to_within_a_unit(
    price: Money, period: Period, day: int
) -> None:
    change = period.start + timedelta(days=day)
    both = charge(price, period, period.start, change) + charge(price, period, change, None)
    assert abs(both.amount_minor - price.amount_minor) <= 1


@given(amounts, st.lists(st.integers(1, 10**9), max_size=20))
def test_a_payment_pays_the_oldest_first_and_no_more_than_is_owed(amount: int, owed: list[int]) -> None:
    parts = allocate_oldest_first(amount, owed)
    assert sum(parts) == min(amount, sum(owed))
    assert all(0 <= part <= debt for part, debt in zip(parts, owed, strict=True))
    # Nobody younger gets anything before an older one is paid.
    for index, part in enumerate(parts[:-1]):
        assert part == owed[index] or not any(parts[index + 1 :])


@pytest.mark.parametrize("text", ["", "2026", "2026-00", "2026-13", "1999-01", "2026-1", "2026-01-01", "\u0662026-01"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a month"):
        Period.parse(text)


def test_numbers_are_padded_and_grow_beyond() -> None:
    assert invoice_number(1) == "INV-000001"
    assert invoice_number(1_234_567) == "INV-1234567"
    assert Period.parse("2026-12").end == date(2027, 1, 1)
