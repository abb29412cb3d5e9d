"""A tenant's settings: which there are, by category, what each may be, and what it is where nobody says so."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.tenant.domain.values import Invalid, Kind, Line, Number


@dataclass(frozen=True, slots=True)
class Setting:
    kind: Kind
    description: str
    default: int | str | None = None
    secret: bool = False
    """It is kept sealed, and shown to nobody."""


@dataclass(frozen=True, slots=True)
class Category:
    """Settings that are read and changed together."""

    description: str
    settings: Mapping[str, Setting]


_PART = r"[^@\s\x00-\x1f\x7f]+"
_ADDRESS = Line(254, rf"{_PART}@{_PART}\.{_PART}", "an e-mail address")
PAYMENT_TERMS = Number(0, 90)
PAYMENT_TERMS_DAYS = "payment_terms_days"
"""The name of the setting that billing goes by."""

SETTINGS: Mapping[str, Category] = {
    "billing": Category(
        "How invoices are issued.",
        {PAYMENT_TERMS_DAYS: Setting(PAYMENT_TERMS, "Days from an invoice's issue to the day it is due.", 14)},
    ),
    "branding": Category(
        "How the ISP shows itself to its customers.",
        {
            "display_name": Setting(Line(100), "The name that customers know."),
            "support_email": Setting(_ADDRESS, "Where customers write to."),
            "website": Setting(Line(200, r"https?://[!-~]+", "an address of a web site"), "The ISP's web site."),
            "colour": Setting(Line(7, "#[0-9A-Fa-f]{6}", "a colour such as #1F6FEB"), "The ISP's colour."),
        },
    ),
    "notifications": Category(
        "Whom messages to customers are from, and by which server they are sent.",
        {
            "sender_name": Setting(Line(100), "Whom messages are from."),
            "sender_email": Setting(_ADDRESS, "The address that they are from."),
            "smtp_host": Setting(
                Line(253, r"[0-9A-Za-z]([0-9A-Za-z.-]*[0-9A-Za-z])?", "a name of a host"), "The server that sends them."
            ),
            "smtp_port": Setting(Number(1, 65535), "Its port.", 587),
            "smtp_user": Setting(Line(200), "Whom to sign in there as."),
            "smtp_password": Setting(Line(200), "The password there.", secret=True),
        },
    ),
}


def problems(category: Category, changes: Mapping[str, Any]) -> dict[str, str]:
    """Return why changes can't be made, by name; none if they can. None sets one back to its default."""
    found = {}
    for name, value in changes.items():
        setting = category.settings.get(name)
        if setting is None:
            found[name] = "there is no such setting"
        elif value is not None:
            try:
                setting.kind.check(value)
            except Invalid as error:
                found[name] = str(error)
    return found


def merged(given: Mapping[str, int | str], changes: Mapping[str, int | str | None]) -> dict[str, int | str]:
    """Return what is given after changes: what is not named stays, and None takes away."""
    after = {**given, **changes}
    return {name: value for name, value in after.items() if value is not None}
