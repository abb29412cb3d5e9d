import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.money import EXPONENTS, Money

amounts = st.integers(-(10**15), 10**15)
weights = st.lists(st.integers(0, 10**6), min_size=1, max_size=20).filter(lambda parts: sum(parts) > 0)


@given(amounts, weights)
def test_parts_sum_to_the_whole_and_none_is_off_by_more_than_one_unit(amount: int, parts: list[int]) -> None:
    money = Money(amount, "EUR")
    allocated = money.allocate(parts)
    assert sum(part.amount_minor for part in allocated) == amount
    for part, weight in zip(allocated, parts, strict=True):
        assert abs(part.amount_minor * sum(parts) - amount * weight) < sum(parts)


@given(amounts, st.sampled_from(sorted(EXPONENTS)))
def test_what_is_formatted_can_be_read_back(amount: int, currency: str) -> None:
    money = Money(amount, currency)
    text, code = money.format().replace(",", "").split()
    assert Money.parse(text, code) == money


@pytest.mark.parametrize(
    ("amount", "numerator", "denominator", "expected"),
    [(5, 1, 2, 2), (15, 1, 2, 8), (-5, 1, 2, -2), (7, 1, 2, 4), (100, 1, 3, 33), (200, 1, 3, 67)],
)
def test_a_ratio_rounds_half_to_even(amount: int, numerator: int, denominator: int, expected: int) -> None:
    assert Money(amount, "USD").multiply_ratio(numerator, denominator).amount_minor == expected


@pytest.mark.parametrize("text", ["", "1.234", "NaN", "Infinity", "1e-5", "ten", "1,000.00"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Money.parse(text, "USD")


def test_currencies_do_not_mix_and_must_exist() -> None:
    with pytest.raises(ValueError, match="don't mix"):
        Money(1, "USD") + Money(1, "EUR")
    with pytest.raises(ValueError, match="XXX"):
        Money(1, "XXX")


def test_money_reads_as_people_write_it() -> None:
    assert Money(31_698_575, "USD").format() == "316,985.75 USD"
    assert Money(1234, "JPY").format() == "1,234 JPY"
    assert Money(1234, "KWD").format() == "1.234 KWD"
