"""Time-based one-time passwords (RFC 6238), as authenticator apps make them: SHA-1, 6 digits, 30 seconds."""

import base64
import hashlib
import hmac
from datetime import datetime
from urllib.parse import quote

DIGITS = 6
PERIOD_SECONDS = 30
SECRET_BYTES = 20
"""As long as what SHA-1 gives (RFC 4226, 4)."""
_ISSUER = "DotMac"
_APART = 1
"""Steps by which the user's clock, or the user, may be late or early."""


def step_at(now: datetime) -> int:
    """Return the step of time, which codes are made of and counted by."""
    return int(now.timestamp()) // PERIOD_SECONDS


def code_of(secret: bytes, step: int) -> str:
    """Return the code of a step (RFC 4226, 5.3)."""
    digest = hmac.new(secret, step.to_bytes(8), hashlib.sha1).digest()
    offset = digest[-1] & 0xF
    number = int.from_bytes(digest[offset : offset + 4]) & 0x7FFFFFFF
    return str(number % 10**DIGITS).zfill(DIGITS)


def accepted_step(secret: bytes, code: str, now: datetime, last: int) -> int | None:
    """Return the step that a code is of, later than the last one that was accepted: a code is good once."""
    present = step_at(now)
    steps = range(max(present - _APART, last + 1), present + _APART + 1)
    return next((step for step in steps if hmac.compare_digest(code_of(secret, step).encode(), code.encode())), None)


def as_text(secret: bytes) -> str:
    """Return a secret as people type it in."""
    return base64.b32encode(secret).decode()


def uri(secret: bytes, account: str) -> str:
    """Return what an authenticator app reads from a QR code."""
    label = quote(f"{_ISSUER}:{account}")
    return (
        f"otpauth://totp/{label}?secret={as_text(secret)}&issuer={_ISSUER}&algorithm=SHA1&digits={DIGITS}"
        f"&period={PERIOD_SECONDS}"
    )
