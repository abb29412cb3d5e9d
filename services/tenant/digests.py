"""Secrets that nobody can guess are kept as SHA-256 hashes: what a slow hash is for, they don't need."""

import hashlib
import secrets


def new_token() -> str:
    """Return a token of 256 bits."""
    return secrets.token_urlsafe(32)


def digest(token: str) -> bytes:
    """Return what is kept of it."""
    return hashlib.sha256(token.encode()).digest()
