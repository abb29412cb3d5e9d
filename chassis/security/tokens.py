"""Access tokens: JSON Web Tokens signed with Ed25519, which every service verifies by itself."""

import asyncio
import hashlib
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from chassis.ids import new_id
from chassis.security.principals import Principal

ALGORITHM = "Ed25519"
ISSUER = "dotmac"
AUDIENCE = "dotmac"
_LEEWAY_SECONDS = 5
_REFETCH_SECONDS = 10.0
_CACHED_TOKENS = 10_000


class InvalidToken(Exception):
    """The token is not one of ours, or its time is over."""


class SigningKeysUnavailable(Exception):
    """The tenant service, which publishes the keys, can't be reached and none are known."""


class TokenIssuer:
    """Signs access tokens. The key pair is derived from JWT_SECRET_KEY, so that it survives a restart."""

    def __init__(self, jwt_secret_key: str, *, issuer: str = ISSUER, audience: str = AUDIENCE) -> None:
        seed = HKDF(hashes.SHA256(), 32, salt=None, info=b"dotmac/jwt/ed25519/1").derive(jwt_secret_key.encode())
        pem = Ed25519PrivateKey.from_private_bytes(seed).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        key = OKPKey.import_key(pem, {"use": "sig", "alg": ALGORITHM})
        self._key = OKPKey.import_key({**key.as_dict(private=True), "kid": key.thumbprint()})
        self._issuer = issuer
        self._audience = audience

    def issue(
        self,
        subject: str,
        tenant_id: UUID,
        scopes: Iterable[str],
        roles: Iterable[str] = (),
        ttl: timedelta = timedelta(minutes=15),
    ) -> str:
        """Return a signed token that lives for `ttl`."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "tid": str(tenant_id),
            "scope": " ".join(sorted(scopes)),
            "roles": list(roles),
            "iat": now,
            "nbf": now,
            "exp": now + int(ttl.total_seconds()),
            "jti": str(new_id()),
        }
        header = {"alg": ALGORITHM, "kid": self._key.kid, "typ": "at+jwt"}
        return jwt.encode(header, claims, self._key, algorithms=[ALGORITHM])

    def jwks(self) -> dict[str, Any]:
        """Return the public keys as a JSON Web Key Set (RFC 7517)."""
        return {"keys": [self._key.as_dict(private=False)]}


class TokenVerifier:
    """Verifies tokens against published keys and remembers the verified ones until they expire."""

    def __init__(self, keys: str | dict[str, Any]) -> None:
        """`keys`: the URL of a JSON Web Key Set, fetched when first needed, or the set itself."""
        self._url = keys if isinstance(keys, str) else None
        self._keys = KeySet.import_key_set(keys) if isinstance(keys, dict) else None  # type: ignore[arg-type]
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._claims = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_SECONDS,
            iss={"essential": True, "value": ISSUER},
            aud={"essential": True, "value": AUDIENCE},
            sub={"essential": True},
            exp={"essential": True},
        )
        self._verified: dict[bytes, Principal] = {}

    async def verify(self, token: str) -> Principal:
        """Return who the token speaks for; InvalidToken if it can't be trusted."""
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        known = self._verified.get(digest)
        if known is not None:
            if known.expires_at > datetime.now(UTC):
                return known
            del self._verified[digest]
        principal = await self._verify(token)
        if len(self._verified) >= _CACHED_TOKENS:
            self._verified.clear()
        self._verified[digest] = principal
        return principal

    async def _verify(self, token: str) -> Principal:
        keys = self._keys or await self._fetch()
        try:
            return self._read(token, keys)
        except (JoseError, ValueError, KeyError, TypeError, UnicodeError) as error:
            refreshed = await self._fetch() if self._url else keys
            if refreshed is keys:
                raise InvalidToken(str(error) or type(error).__name__) from error
        try:
            return self._read(token, refreshed)
        except (JoseError, ValueError, KeyError, TypeError, UnicodeError) as error:
            raise InvalidToken(str(error) or type(error).__name__) from error

    def _read(self, token: str, keys: KeySet) -> Principal:
        claims = jwt.decode(token, keys, algorithms=[ALGORITHM]).claims
        self._claims.validate(claims)
        return Principal(
            subject=str(claims["sub"]),
            tenant_id=UUID(str(claims["tid"])),
            scopes=frozenset(str(claims["scope"]).split()),
            roles=tuple(claims.get("roles", ())),
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        )

    async def _fetch(self) -> KeySet:
        """Fetch the published keys, at most once in ten seconds: a flood of bad tokens asks no more often."""
        async with self._fetching:
            if self._url and time.monotonic() - self._fetched_at >= _REFETCH_SECONDS:
                try:
                    timeout = aiohttp.ClientTimeout(total=3)
                    async with (
                        aiohttp.ClientSession(timeout=timeout) as session,
                        session.get(self._url) as answer,
                    ):
                        answer.raise_for_status()
                        self._keys = KeySet.import_key_set(await answer.json())
                        self._fetched_at = time.monotonic()
                except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                    if self._keys is None:
                        raise SigningKeysUnavailable(f"no signing keys from {self._url}") from error
            if self._keys is None:
                raise SigningKeysUnavailable(f"no signing keys from {self._url}")
            return self._keys
