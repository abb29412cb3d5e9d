"""What a customer is, and what may be said of one."""

import re
from typing import Any

LIMITS = {
    "external_reference": 100,
    "name": 200,
    "email": 254,
    "phone": 40,
    "city": 100,
    "postal_code": 20,
    "country": 2,
    "status": 10,
    "payment_method": 40,
}
FIELDS = (*LIMITS, "paperless_billing")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_UNSTORABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}


class Invalid(Exception):
    """The data can't be a customer's; the message says why."""


def clean(given: dict[str, Any]) -> dict[str, Any]:
    """Return all fields of a customer in their stored form; Invalid says what is wrong."""
    unknown = given.keys() - set(FIELDS)
    if unknown:
        raise Invalid(f"unknown field {', '.join(sorted(map(str, unknown)))[:200]}")
    fields: dict[str, Any] = {name: _text(name, given.get(name), limit) for name, limit in LIMITS.items()}
    if fields["name"] is None:
        raise Invalid("name is missing")
    if fields["email"] is not None and not _EMAIL.fullmatch(fields["email"]):
        raise Invalid("email is not an address")
    if fields["country"] is not None and not re.fullmatch("[A-Z]{2}", fields["country"]):
        raise Invalid("country is not an ISO 3166-1 alpha-2 code")
    fields["status"] = fields["status"] or "active"
    if fields["status"] not in ("active", "terminated"):
        raise Invalid("status is neither active nor terminated")
    fields["paperless_billing"] = _truth(given.get("paperless_billing"))
    return fields


def _text(name: str, value: Any, limit: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise Invalid(f"{name} is not a text")
    text = value.strip()
    if len(text) > limit:
        raise Invalid(f"{name} is longer than {limit} characters")
    if _UNSTORABLE.search(text):
        raise Invalid(f"{name} has control characters")
    return text or None


def _truth(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _TRUTH:
        return _TRUTH[value.strip().lower()]
    raise Invalid("paperless_billing is neither true nor false")
