"""Secrets at rest: what the database must not show is sealed under `SECRET_KEY`."""

import base64

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class CanNotBeOpened(Exception):
    """It was sealed under a secret that is not known here, or changed since."""


class Vault:
    """Seals with the first secret, and opens what any of them sealed, so that a secret can be changed."""

    def __init__(self, *secrets: str) -> None:
        keys = [_key(secret) for secret in secrets]
        self._present, self._keys = keys[0], MultiFernet(keys)

    def seal(self, plain: bytes) -> bytes:
        """Return it encrypted and authenticated."""
        return self._keys.encrypt(plain)

    def open(self, sealed: bytes) -> bytes:
        """Return what was sealed; CanNotBeOpened if it can't be trusted."""
        try:
            return self._keys.decrypt(sealed)
        except InvalidToken as error:
            raise CanNotBeOpened("it was sealed under another SECRET_KEY, or changed since") from error

    def renewed(self, sealed: bytes) -> bytes | None:
        """Return it sealed under the first secret; None if it is, CanNotBeOpened if it can't be trusted."""
        try:
            self._present.decrypt(sealed)
        except InvalidToken:
            return self.seal(self.open(sealed))
        return None


def _key(secret: str) -> Fernet:
    derived = HKDF(hashes.SHA256(), 32, salt=None, info=b"dotmac/vault/1").derive(secret.encode())
    return Fernet(base64.urlsafe_b64encode(derived))
