"""One OpenAPI document for all services, and the pages that show it and the events.

The pages are Swagger UI and asyncapi-viewer, as their packages bring them: nothing is fetched from elsewhere, and the
Content-Security-Policy would not let it.
"""

import asyncio
import gzip
import hashlib
import mimetypes
import re
import time
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from starlette.requests import Request
from starlette.responses import Response

from chassis.http.problem import Problem
from gateway.routes import PUBLIC
from gateway.upstream import Upstream

_PAGES = files("gateway") / "pages"
_FILES: tuple[Traversable, ...] = (
    files("fastapi_swagger") / "resources" / "swagger-ui-bundle.js",
    files("fastapi_swagger") / "resources" / "swagger-ui.css",
    files("fastapi_swagger") / "resources" / "favicon-32x32.png",
    files("asyncapi_viewer") / "static" / "asyncapi-viewer.js",
    _PAGES / "docs.js",
)
_ASYNCAPI = Path(__file__).resolve().parent.parent / "contracts" / "asyncapi.yaml"
# Swagger UI's icons are data.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_OPENAPI_SECONDS = 5.0
_COMPONENTS = "#/components/"


class Content:
    """Something to be served: its bytes, packed as well, and the name of this version of it."""

    def __init__(self, body: bytes, media_type: str, cache: str, **headers: str) -> None:
        self._body = body
        self._packed = gzip.compress(body, 6, mtime=0) if len(body) > 1024 else body
        self.digest = hashlib.sha256(body).hexdigest()[:16]
        self._media_type = media_type
        self._headers = {"Cache-Control": cache, "Vary": "Accept-Encoding", **headers}

    def response(self, request: Request) -> Response:
        """Return it as the client wants it, or say that it has this version already."""
        packs = self._packed is not self._body and "gzip" in request.headers.get("accept-encoding", "")
        etag = f'"{self.digest}-gzip"' if packs else f'"{self.digest}"'
        headers = {**self._headers, "ETag": etag}
        if etag in re.split(r"\s*,\s*", request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        if packs:
            headers["Content-Encoding"] = "gzip"
        return Response(self._packed if packs else self._body, 200, headers, self._media_type)


@cache
def pages() -> dict[str, Content]:
    """Return the pages and their files by their paths; an error if a package does not bring what it should."""
    made: dict[str, Content] = {"/asyncapi.yaml": Content(_ASYNCAPI.read_bytes(), "application/yaml", "no-cache")}
    places: dict[str, str] = {}
    for file in _FILES:
        media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        # The digest in the path lets a browser keep it for good.
        content = Content(file.read_bytes(), media_type, "public, max-age=31536000, immutable")
        places[file.name] = f"/docs/assets/{content.digest}/{file.name}"
        made[places[file.name]] = content
    for path, name in (("/docs", "docs.html"), ("/docs/events", "events.html")):
        text = re.sub(r"\{([\w.-]+)\}", lambda match: places[match[1]], (_PAGES / name).read_text())
        made[path] = Content(text.encode(), "text/html", "no-cache", **{"Content-Security-Policy": _POLICY})
    return made


class Documentation:
    """The services' documents as one."""

    def __init__(self, session: aiohttp.ClientSession, upstreams: Mapping[str, Upstream]) -> None:
        """`upstreams`: the services by name."""
        self._session = session
        self._upstreams = upstreams
        self._merging = asyncio.Lock()
        self._merged: Content | None = None
        self._merged_until = 0.0

    async def openapi(self) -> Content:
        """Return the merged document; Problem 503 names a service that does not answer."""
        async with self._merging:  # whatever the number of those who ask, the services are asked once
            if self._merged is None or time.monotonic() >= self._merged_until:
                names = list(self._upstreams)
                documents = await asyncio.gather(*(self._fetch(name) for name in names))
                body = orjson.dumps(merge(dict(zip(names, documents, strict=True))))
                self._merged = await asyncio.to_thread(Content, body, "application/json", "no-store")
                self._merged_until = time.monotonic() + _OPENAPI_SECONDS
            return self._merged

    async def _fetch(self, name: str) -> dict[str, Any]:
        try:
            status, body = await self._upstreams[name].fetch(self._session, "/openapi.json")
            if status != 200:
                raise ValueError(f"it answered {status}")
            document: dict[str, Any] = orjson.loads(body)
            return document
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            detail = f"The {name} service does not answer."
            raise Problem(503, "unavailable", detail, headers={"Retry-After": "1"}) from error


def merge(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the OpenAPI documents of services, by their names, as one; ValueError if two have the same operation."""
    paths: dict[str, dict[str, Any]] = {}
    components: dict[str, dict[str, Any]] = {}
    operations: set[str] = set()
    for service, document in documents.items():
        renamed = _renamed(service, document.get("components", {}), components)
        for path, item in _referring(document["paths"], renamed).items():
            for verb, operation in item.items():
                if operation["operationId"] in operations or verb in paths.get(path, {}):
                    raise ValueError(f"two services have the operation {operation['operationId']} or {verb} {path}")
                operations.add(operation["operationId"])
                if path in PUBLIC:
                    operation["security"] = []
                paths.setdefault(path, {})[verb] = operation
        for reference, part in _parts(document.get("components", {})).items():
            kind, name = renamed.get(reference, reference).removeprefix(_COMPONENTS).split("/")
            components.setdefault(kind, {})[name] = _referring(part, renamed)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DotMac Platform",
            "version": "1.0.0",
            "summary": "Tenants, deployments, customers, billing, events and webhooks.",
            "description": "Errors are problem details (RFC 9457). The events are at [/docs/events](/docs/events).",
        },
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": components,
    }


def _parts(components: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return components by what is written to refer to them."""
    return {f"{_COMPONENTS}{kind}/{name}": part for kind, named in components.items() for name, part in named.items()}


def _renamed(service: str, components: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, str]:
    """Return another reference for each component whose name another service has given to something else.

    So it is too with one that is the same in both, but refers to one that is not.
    """
    others, renamed = _parts(taken), dict[str, str]()
    while True:
        more = {
            reference: f"{reference.rpartition('/')[0]}/{service.title()}{reference.rpartition('/')[2]}"
            for reference, part in _parts(components).items()
            if reference in others
            and reference not in renamed
            and (others[reference] != part or _referring(part, renamed) != part)
        }
        if not more:
            return renamed
        renamed |= more


def _referring(part: Any, renamed: Mapping[str, str]) -> Any:
    """Return a part of a document with its references as they are now."""
    if isinstance(part, dict):
        return {
            key: renamed.get(value, value) if key == "$ref" and isinstance(value, str) else _referring(value, renamed)
            for key, value in part.items()
        }
    return [_referring(entry, renamed) for entry in part] if isinstance(part, list) else part
