"""A password as PostgreSQL stores it (SCRAM-SHA-256, RFC 5803), so that the server need not see the password."""

import base64
import hashlib
import hmac
import os

_ITERATIONS = 4096  # what the server itself uses


def verifier(password: str) -> str:
    """Return `SCRAM-SHA-256$…` for `create role … password`; ValueError unless the password is printable ASCII."""
    if not (password.isascii() and password.isprintable()):
        raise ValueError("a database password must be printable ASCII")
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(_keyed(salted, b"Client Key")).digest()
    encoded = [base64.b64encode(part).decode() for part in (salt, stored, _keyed(salted, b"Server Key"))]
    return "SCRAM-SHA-256${}:{}${}:{}".format(_ITERATIONS, *encoded)


def _keyed(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
