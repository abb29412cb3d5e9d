"""The OpenAPI document, completed with what the chassis does to every operation."""

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis.http.idempotency import KEY
from chassis.http.preconditions import IF_MATCH
from chassis.http.problem import MEDIA_TYPE, Problem

_ANYWHERE = (400, 408, 414, 429, 431, 500, 502, 503, 504)
_STATUSES = (*_ANYWHERE, 401, 403, 404, 409, 412, 413, 415, 422, 428)
_VERBS = ("get", "put", "post", "patch", "delete")
_PROBLEM = {
    "type": "object",
    "title": "ProblemDetails",
    "description": "An error by RFC 9457. `type` is stable; some kinds have members of their own.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "examples": ["/problems/not-found"]},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "Where a request does not fit its schema.",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "The ETag of the version that you read, or `*`.",
    "schema": {"type": "string", "pattern": IF_MATCH, "examples": ["*"]},
}


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same request within a day gives the first answer again and changes nothing.",
    "schema": {"type": "string", "pattern": KEY},
}


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, verb and operation."""
    for path, item in document["paths"].items():
        for verb in _VERBS:
            if verb in item:
                yield path, verb, item[verb]


def complete(app: FastAPI) -> None:
    """Have an application's document name every status that each operation can answer with."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            for path, verb, operation in operations(document):
                _complete(verb, operation)
                if verb == "post":
                    _link(document["paths"], path, operation)
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            schemas["ProblemDetails"] = _PROBLEM
            components["responses"] = {_name(status): _answer(status) for status in _STATUSES}
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(verb: str, operation: dict[str, Any]) -> None:
    if verb in ("put", "patch"):
        operation.setdefault("parameters", []).append(_IF_MATCH)
    if verb == "post" and operation.get("security"):
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
    parameters, body = operation.get("parameters", []), "requestBody" in operation
    statuses = set(_ANYWHERE)
    if operation.get("security"):
        statuses |= {401, 403}
    if parameters or body:
        statuses |= {422}
    if body:
        statuses |= {413, 415}
    if any(parameter["in"] == "path" for parameter in parameters):
        statuses |= {404}
    if any(parameter["name"] == "If-Match" for parameter in parameters):
        statuses |= {412, 428}
    if verb != "get":
        statuses |= {404, 409}
    # What the framework says of 422 is not what is answered.
    given = {status: answer for status, answer in operation["responses"].items() if status != "422"}
    named = {str(status): _reference(status) for status in statuses}
    operation["responses"] = dict(sorted({**named, **given}.items()))


def _link(paths: Mapping[str, Any], path: str, operation: dict[str, Any]) -> None:
    """Say that what was created can be read, changed and commanded by its id (an OpenAPI link)."""
    created = next((answer for status, answer in operation["responses"].items() if status in ("201", "202")), None)
    if created is None:
        return
    for template in paths:
        following = re.fullmatch(re.escape(path) + r"/\{(\w+)\}(/\w+)?", template)
        for verb in _VERBS if following else ():
            if following and verb in paths[template]:
                target: str = paths[template][verb]["operationId"]
                link = {"operationId": target, "parameters": {following[1]: "$response.body#/id"}}
                created.setdefault("links", {})[target] = link


def _name(status: int) -> str:
    return HTTPStatus(status).phrase.title().replace(" ", "")


def _reference(status: int) -> dict[str, Any]:
    return {"$ref": f"#/components/responses/{_name(status)}"}


def _answer(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route's `responses` says of statuses that `complete` can't know of."""
    return {status: _answer(status) for status in statuses}


class KnownMethods:
    """ASGI middleware that answers 405, with all that is allowed, where a path is known and the method isn't.

    The router by itself names the methods of the first route that fits only, and takes a literal path such as
    `/customers/summary` for an id where the literal route has no such method.
    """

    def __init__(self, app: ASGIApp, document: Mapping[str, Any]) -> None:
        self._app = app
        self._literal: dict[str, set[str]] = {}
        self._templates: dict[re.Pattern[str], set[str]] = {}
        for path, verb, _ in operations(document):
            if "{" in path:
                pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))
                self._templates.setdefault(pattern, set()).add(verb.upper())
            else:
                self._literal.setdefault(path, set()).add(verb.upper())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            allowed = self._allowed(scope["path"])
            if allowed is not None and scope["method"] not in allowed:
                methods = ", ".join(sorted(allowed))
                detail = f"{scope['method']} is not what can be done here: {methods}."
                problem = Problem(405, "method-not-allowed", detail, headers={"Allow": methods})
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _allowed(self, path: str) -> set[str] | None:
        literal = self._literal.get(path)
        if literal is not None:
            return literal
        return next((methods for pattern, methods in self._templates.items() if pattern.fullmatch(path)), None)
