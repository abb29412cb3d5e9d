"""Passwords are hashed with argon2id. Hashing takes tens of milliseconds: run it in a thread."""

from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

_hasher = PasswordHasher()


def hash_password(password: str) -> str:
    """Return the encoded hash."""
    return _hasher.hash(password)


@cache
def _nobodys_hash() -> str:
    return _hasher.hash("nobody has this password")


def is_outdated(password_hash: str | None) -> bool:
    """Return whether it was made with other parameters than those of today."""
    return password_hash is not None and _hasher.check_needs_rehash(password_hash)


def verify_password(password_hash: str | None, password: str) -> bool:
    """Return whether the password fits; without a hash it takes as long and is False."""
    try:
        _hasher.verify(password_hash or _nobodys_hash(), password)
    except VerificationError:
        return False
    return password_hash is not None
