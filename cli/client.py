"""A client of the REST API through the gateway."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Self

import aiohttp
import orjson

API = "/api/v1"
_RENEW_BEFORE_SECONDS = 60.0
_ATTEMPTS = 5


class ApiError(Exception):
    """The API refused a request; the message is its problem details."""


class Client:
    """Signs in when first used, and again before its token expires."""

    def __init__(self, gateway: str, username: str, password: str, tenant: str | None = None) -> None:
        self._gateway = gateway.rstrip("/")
        self._credentials = {
            "username": username,
            "password": password,
            **({"tenant": tenant} if tenant else {}),
        }
        self._token = ""
        self._expires = 0.0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def _authorization(self, session: aiohttp.ClientSession) -> dict[str, str]:
        if time.monotonic() > self._expires - _RENEW_BEFORE_SECONDS:
            url = f"{self._gateway}{API}/auth/token"
            async with session.post(url, data={"grant_type": "password", **self._credentials}) as answer:
                body = await answer.json(content_type=None)
                if answer.status != 200:
                    raise ApiError(f"sign-in as {self._credentials['username']} failed: {body}")
            self._token = body["access_token"]
            self._expires = time.monotonic() + body["expires_in"]
        return {"Authorization": f"Bearer {self._token}"}

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: dict[str, str] | None = None,
        stream: AsyncIterator[bytes] | None = None,
        media_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Send a request, again where a 503 says when, and return the JSON of its answer; ApiError unless it is 2xx."""
        if self._session is None:
            raise RuntimeError("use the client as a context manager: async with Client(…) as client")
        sent = {**await self._authorization(self._session), "Content-Type": media_type, **(headers or {})}
        if method == "POST":
            sent.setdefault("Idempotency-Key", str(uuid.uuid4()))  # so that it can be sent again
        data = stream if stream is not None else (None if body is None else orjson.dumps(body))
        left = _ATTEMPTS if stream is None else 1  # a stream is gone once it was sent
        while True:
            left -= 1
            async with self._session.request(
                method, f"{self._gateway}{API}{path}", data=data, params=params, headers=sent
            ) as answer:
                text = await answer.read()
                if answer.status < 300:
                    return orjson.loads(text) if text else None
                retry_after = answer.headers.get("Retry-After", "")
            if not (answer.status == 503 and retry_after.isdigit() and left):
                raise ApiError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
            await asyncio.sleep(int(retry_after))

    async def get(self, path: str, **params: str) -> Any:
        """Read a resource."""
        return await self.call("GET", path, params=params)

    async def post(self, path: str, body: Any, **headers: str) -> Any:
        """Create or command something."""
        return await self.call("POST", path, body, headers=headers)
