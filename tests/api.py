"""A client for tests that notes which operations of the OpenAPI document it exercised."""

import asyncio
import io
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import aiohttp
import orjson

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    body: Any

    def expect(self, status: int) -> Any:
        assert self.status == status, f"{self.status} instead of {status}: {self.body}"
        return self.body

    def problem(self, status: int, slug: str | None = None) -> None:
        """Assert that this is a problem of the given status, and kind."""
        assert self.status == status, f"{self.status} instead of {status}: {self.body}"
        assert self.headers["Content-Type"] == "application/problem+json"
        assert {"type", "title", "status", "detail"} <= self.body.keys()
        assert self.body["status"] == status
        assert "Traceback" not in str(self.body)
        if slug:
            assert self.body["type"] == f"/problems/{slug}"


@dataclass(frozen=True)
class Api:
    url: str
    http: aiohttp.ClientSession
    token: str | None
    exercised: set[tuple[str, str]]
    operations: dict[tuple[str, str], str]

    def as_(self, token: str) -> "Api":
        return replace(self, token=token)

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        form: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if self.token:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        data: Any = form if form is not None else (raw if raw is None else io.BytesIO(raw))
        if data is None and body is not None:
            data = json.dumps(body).encode()
        if form is None and data is not None:
            sent.setdefault("Content-Type", "application/json")
        async with self.http.request(method, self.url + path, data=data, headers=sent, params=params) as answer:
            kind = answer.headers.get("Content-Type", "")
            # One that goes on is there once it has begun.
            content = b"" if kind.startswith("text/event-stream") else await answer.read()
            if answer.status < 400:
                self.note(method, path)
            return Answer(answer.status, answer.headers, _read(kind, content))

    def note(self, method: str, path: str) -> None:
        """Take note of an operation that was exercised."""
        matching = [
            (verb, template)
            for verb, template in self.operations
            if verb == method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path)
        ]
        if matching:
            self.exercised.add(min(matching, key=lambda found: found[1].count("{")))


def _read(kind: str, content: bytes) -> Any:
    if "ndjson" in kind:
        return [orjson.loads(line) for line in content.splitlines()]
    return orjson.loads(content) if "json" in kind else content


async def eventually(probe: Callable[[], Awaitable[T | None]], seconds: float = 60) -> T:
    """Return what `probe` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while True:
        found = await probe()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)
