"""Access tokens: JSON Web Tokens signed with Ed25519, which every service verifies by itself."""

import asyncio
import hashlib
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import orjson
import structlog
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from chassis.ids import new_id
from chassis.security.principals import Principal
from chassis.security.revocations import LONGEST_LIFETIME, Revocations

log = structlog.get_logger()

ALGORITHM = "Ed25519"
TYPE = "at+jwt"
ISSUER = "dotmac"
AUDIENCE = "dotmac"
_LEEWAY_SECONDS = 5
_REFETCH_SECONDS = 10.0
_REFRESH_SECONDS = 300.0
"""Who knows keys for longer looks whether one was taken back."""
_FETCH_ATTEMPTS = 3
_FETCH_SECONDS = 2.0
"""For one attempt, less than a resolver waits before it asks again: a lost packet costs no request its answer."""
_CACHED_TOKENS = 10_000
_LARGEST_KEY_SET = 64 * 1024


class InvalidToken(Exception):
    """The token is not one of ours, or its time is over."""


class SigningKeysUnavailable(Exception):
    """The tenant service, which publishes the keys, can't be reached and none are known."""


def _key_pair(secret: str) -> OKPKey:
    seed = HKDF(hashes.SHA256(), 32, salt=None, info=b"dotmac/jwt/ed25519/1").derive(secret.encode())
    pem = Ed25519PrivateKey.from_private_bytes(seed).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = OKPKey.import_key(pem, {"use": "sig", "alg": ALGORITHM})
    return OKPKey.import_key({**key.as_dict(private=True), "kid": key.thumbprint()})


class TokenIssuer:
    """Signs access tokens. The key pairs are derived from secrets, so that they survive a restart."""

    def __init__(self, secret: str, *others: str, issuer: str = ISSUER, audience: str = AUDIENCE) -> None:
        """`secret` signs; of `others`, the former and the next ones, the public keys are published as well."""
        self._key = _key_pair(secret)
        self._published = [self._key, *(_key_pair(other) for other in others)]
        self._issuer = issuer
        self._audience = audience

    def issue(
        self,
        subject: str,
        tenant_id: UUID,
        scopes: Iterable[str],
        roles: Iterable[str] = (),
        ttl: timedelta = timedelta(minutes=15),
        issued_at: datetime | None = None,
        session_id: UUID | None = None,
        kind: str = "user",
    ) -> str:
        """Return a signed token that lives for `ttl`, at most `LONGEST_LIFETIME`, from `issued_at` on, which is now.

        `session_id`: what it is issued in, and ends with. `kind`: what works with it, see `Principal`.
        """
        if ttl > LONGEST_LIFETIME:
            raise ValueError(f"a token lives for {LONGEST_LIFETIME} at most")
        # To the microsecond: of two tokens of one second, the revocation between them ends the first alone.
        issued = issued_at.timestamp() if issued_at else time.time()
        now = int(issued)
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "tid": str(tenant_id),
            "scope": " ".join(sorted(scopes)),
            "roles": list(roles),
            "iat": round(issued, 6),
            "nbf": now,
            "exp": now + int(ttl.total_seconds()),
            "jti": str(new_id()),
            **({"sid": str(session_id)} if session_id else {}),
            **({"kind": kind} if kind != "user" else {}),
        }
        header = {"alg": ALGORITHM, "kid": self._key.kid, "typ": TYPE}
        return jwt.encode(header, claims, self._key, algorithms=[ALGORITHM])

    def jwks(self) -> dict[str, Any]:
        """Return the public keys as a JSON Web Key Set (RFC 7517)."""
        return {"keys": [key.as_dict(private=False) for key in self._published]}


class TokenVerifier:
    """Verifies tokens against published keys and remembers the verified ones until they expire or are revoked."""

    def __init__(self, keys: str | dict[str, Any], revocations: Revocations | None = None) -> None:
        """`keys`: the URL of a JSON Web Key Set, fetched when first needed, or the set itself."""
        self.revocations = revocations or Revocations()
        self._url = keys if isinstance(keys, str) else None
        self._keys = KeySet.import_key_set(keys) if isinstance(keys, dict) else None  # type: ignore[arg-type]
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._refreshing: asyncio.Task[KeySet] | None = None
        self._claims = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_SECONDS,
            iss={"essential": True, "value": ISSUER},
            aud={"essential": True, "value": AUDIENCE},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            jti={"essential": True},
        )
        self._verified: dict[bytes, tuple[Principal, float]] = {}

    def recall(self, token: bytes) -> Principal | None:
        """Return who a token that was verified before speaks for, while it is valid; without waiting."""
        digest = hashlib.sha256(token).digest()
        known = self._verified.get(digest)
        if known is None:
            return None
        principal, expires_at = known
        if expires_at <= time.time() or self.revocations.include(principal):
            del self._verified[digest]
            return None
        return principal

    async def verify(self, token: str) -> Principal:
        """Return who the token speaks for; InvalidToken if it can't be trusted."""
        encoded = token.encode("utf-8", "replace")
        known = self.recall(encoded)
        if known is not None:
            return known
        principal = await self._verify(token)
        if self.revocations.include(principal):
            raise InvalidToken("it was revoked")
        if len(self._verified) >= _CACHED_TOKENS:
            del self._verified[next(iter(self._verified))]  # the oldest, which expires first
        self._verified[hashlib.sha256(encoded).digest()] = principal, principal.expires_at.timestamp()
        return principal

    async def _verify(self, token: str) -> Principal:
        keys = self._keys or await self._fetch()
        if self._url and time.monotonic() - self._fetched_at >= _REFRESH_SECONDS:
            self._refresh()
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
        decoded = jwt.decode(token, keys, algorithms=[ALGORITHM])
        # The type of access tokens (RFC 9068): what was signed for another purpose is none.
        if decoded.header.get("typ") != TYPE:
            raise ValueError("it is not an access token")
        claims = decoded.claims
        self._claims.validate(claims)
        return Principal(
            subject=str(claims["sub"]),
            tenant_id=UUID(str(claims["tid"])),
            scopes=frozenset(str(claims["scope"]).split()),
            roles=tuple(claims.get("roles", ())),
            token_id=str(claims["jti"]),
            issued_at=datetime.fromtimestamp(claims["iat"], UTC),
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
            session_id=str(claims["sid"]) if "sid" in claims else None,
            kind=str(claims.get("kind", "user")),
        )

    def _refresh(self) -> None:
        """Fetch the keys beside the requests, which go on with those that are known."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._fetch(), name="signing keys")

    async def _fetch(self) -> KeySet:
        """Fetch the published keys, at most once in ten seconds: a flood of bad tokens asks no more often."""
        async with self._fetching:
            if self._url and time.monotonic() - self._fetched_at >= _REFETCH_SECONDS:
                try:
                    self._learn(await self._published(self._url))
                except SigningKeysUnavailable:
                    if self._keys is None:
                        raise
                    log.warning("signing_keys_not_refreshed", url=self._url)  # those that are known have to do
                self._fetched_at = time.monotonic()
            if self._keys is None:
                raise SigningKeysUnavailable(f"no signing keys from {self._url}")
            return self._keys

    def _learn(self, keys: KeySet) -> None:
        """Go by these keys from now on, and believe nothing more that one of the others signed."""
        taken_back = {key.kid for key in self._keys or ()} - {key.kid for key in keys}
        self._keys = keys
        if taken_back:
            self._verified.clear()
            self.revocations.version += 1  # whoever remembers a principal looks again
            log.info("signing_keys_taken_back", keys=sorted(str(kid) for kid in taken_back))

    @staticmethod
    async def _published(url: str) -> KeySet:
        timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
        for _ in range(_FETCH_ATTEMPTS):
            try:
                async with (
                    aiohttp.ClientSession(timeout=timeout) as session,
                    session.get(url, allow_redirects=False) as answer,
                ):
                    if answer.status != 200:
                        raise ValueError(f"it answered {answer.status}")
                    return KeySet.import_key_set(orjson.loads(await _at_most(answer.content, _LARGEST_KEY_SET)))
            except TimeoutError:
                continue
            except (aiohttp.ClientError, ValueError, KeyError, TypeError, JoseError) as error:
                raise SigningKeysUnavailable(f"no signing keys from {url}: {error}") from error
        raise SigningKeysUnavailable(f"no signing keys from {url} in time")


async def _at_most(content: aiohttp.StreamReader, largest: int) -> bytes:
    """Read a body; ValueError if there is more of it than can be a set of keys."""
    body = b""
    async for piece in content.iter_any():
        body += piece
        if len(body) > largest:
            raise ValueError(f"it answered with more than {largest:,} bytes")
    return body
