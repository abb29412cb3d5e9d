"""Time-based one-time passwords, held against the vectors of RFC 6238 and RFC 4226."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from services.tenant.domain.totp import PERIOD_SECONDS, accepted_step, as_text, code_of, step_at, uri

SECRET = b"12345678901234567890"
NOW = datetime(2026, 1, 1, 12, 0, 10, tzinfo=UTC)


# RFC 6238, appendix B, of whose eight digits the last six are a code of six.
@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_codes_are_those_of_the_standard(seconds: int, code: str) -> None:
    assert code_of(SECRET, step_at(datetime.fromtimestamp(seconds, UTC))) == code[-6:]


def test_steps_are_counted_as_in_the_standard() -> None:
    codes = ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"]
    assert [code_of(SECRET, step) for step in range(10)] == codes


@pytest.mark.parametrize(("late", "good"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_clock_may_be_a_step_apart(late: int, good: bool) -> None:
    code = code_of(SECRET, step_at(NOW) + late)
    assert (accepted_step(SECRET, code, NOW, -1) is not None) is good


def test_a_code_is_good_once_and_none_before_it_is_any_more() -> None:
    present = step_at(NOW)
    last = accepted_step(SECRET, code_of(SECRET, present), NOW, -1)
    assert last == present
    for step in (present, present - 1):
        assert accepted_step(SECRET, code_of(SECRET, step), NOW, last) is None
    later = NOW + timedelta(seconds=PERIOD_SECONDS)
    assert accepted_step(SECRET, code_of(SECRET, present), later, last) is None
    assert accepted_step(SECRET, code_of(SECRET, present + 1), later, last) == present + 1


@pytest.mark.parametrize("code", ["", "12345", "é", "1234567", "ABCDEF"])
def test_what_is_no_code_is_none(code: str) -> None:
    assert accepted_step(SECRET, code, NOW, -1) is None


def test_an_app_is_told_all_it_needs() -> None:
    parts = urlsplit(uri(SECRET, "ada@acme.example"))
    assert (parts.scheme, parts.netloc, parts.path) == ("otpauth", "totp", "/DotMac%3Aada%40acme.example")
    told = {name: value for name, (value,) in parse_qs(parts.query).items()}
    told_secret = told.pop("secret")
    assert told_secret == as_text(SECRET) == "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    assert told == {"issuer": "DotMac", "algorithm": "SHA1", "digits": "6", "period": "30"}
