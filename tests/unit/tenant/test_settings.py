"""What a setting may be, and what comes of changes."""

from typing import Any

import pytest

from services.billing.domain.terms import PAYMENT_TERMS_DAYS
from services.tenant.domain.settings import SETTINGS, merged, problems


def test_what_is_left_alone_is_what_billing_goes_by_itself() -> None:
    assert SETTINGS["billing"].settings["payment_terms_days"].default == PAYMENT_TERMS_DAYS


def test_each_default_is_a_value_that_may_be_given() -> None:
    for name, category in SETTINGS.items():
        given = {each: setting.default for each, setting in category.settings.items()}
        assert problems(category, given) == {}, name


def test_no_secret_has_a_default() -> None:
    settings = [setting for category in SETTINGS.values() for setting in category.settings.values()]
    assert {setting.default for setting in settings if setting.secret} == {None}


@pytest.mark.parametrize(
    ("category", "name", "good", "wrong"),
    [
        ("billing", "payment_terms_days", [0, 90, 30], [-1, 91, 30.0, 30.5, "30", True, [30], {}, 2**70]),
        ("branding", "display_name", ["Acme", "Ünï"], ["", " ", "a\nb", "a\0", "x" * 101, 1]),
        ("branding", "support_email", ["a@b.example"], ["a", "a@b", "a b@c.example", "a@b.c\n", "\0@b.example"]),
        ("branding", "website", ["https://acme.example/x"], ["acme.example", "javascript:x", "https:// x", "ftp://a"]),
        ("branding", "colour", ["#1f6FEB"], ["1f6feb", "#1f6fe", "#1f6feg", "#1f6feb\n"]),
        ("notifications", "smtp_host", ["mail.acme.example", "m"], ["-a", "a-", "a b", "a/", "x" * 254]),
        ("notifications", "smtp_port", [1, 65535], [0, 65536, "25"]),
        ("notifications", "smtp_password", ["p"], ["", 1, "x" * 201]),
    ],
)
def test_a_setting_takes_what_it_may_be_and_nothing_else(
    category: str, name: str, good: list[Any], wrong: list[Any]
) -> None:
    for value in good:
        assert problems(SETTINGS[category], {name: value}) == {}
    for value in wrong:
        assert name in problems(SETTINGS[category], {name: value}), value


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = problems(SETTINGS["branding"], {"colour": "red", "color": "#000000", "website": None, "display_name": "A"})
    assert found == {
        "colour": "not a colour such as #1F6FEB of up to 7 characters",
        "color": "there is no such setting",
    }


def test_what_is_not_named_stays_and_none_takes_away() -> None:
    assert merged({"a": 1, "b": 2}, {"b": None, "c": "x"}) == {"a": 1, "c": "x"}
    assert merged({"a": 0}, {}) == {"a": 0}
