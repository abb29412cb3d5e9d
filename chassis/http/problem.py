"""Errors as RFC 9457 problem details: a stable type, a title for people, never a stack trace (law 8)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import asyncpg
import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.persistence.database import HELD
from chassis.security.standing import TenantClosed
from chassis.security.tokens import InvalidToken, SigningKeysUnavailable
from chassis.security.vault import CanNotBeOpened

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An error that a client can act on. `slug` names its kind for good; `detail` says what happened."""

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extensions: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.title = title or slug.replace("-", " ").capitalize()
        self.headers = dict(headers or {})
        self.extensions = extensions

    def response(self) -> Response:
        body = {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extensions,
        }
        return Response(orjson.dumps(body, default=str), self.status, self.headers, MEDIA_TYPE)


_INTERNAL = Problem(500, "internal-error", "Something went wrong here; it has been logged.")


def NotFound(resource: str, identifier: object) -> Problem:
    """404. Says the same of what doesn't exist and of what belongs to another tenant."""
    return Problem(404, "not-found", f"There is no {resource} {identifier}.")


def Closed(error: TenantClosed) -> Problem:
    """403: the tenant is closed to its users, and the type says why."""
    return Problem(403, error.slug, error.detail)


def Moving(**extensions: Any) -> Problem:
    """503: the tenant is being moved; nothing was done, and can be a moment later."""
    detail = "The tenant is being moved to another place. Try again in a moment."
    return Problem(503, "tenant-moving", detail, headers={"Retry-After": "1"}, **extensions)


def Conflict(slug: str, detail: str) -> Problem:
    """409: the request is right, the state of the thing forbids it."""
    return Problem(409, slug, detail)


def Unprocessable(slug: str, detail: str, **extensions: Any) -> Problem:
    """422: well formed, but not something that can be done."""
    return Problem(422, slug, detail, **extensions)


class Unforeseen:
    """ASGI middleware that answers what nothing inside did: logged here, and no more than that said to the client."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def observed(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            log.error("unhandled_error", path=scope["path"], exc_info=error)
            await _INTERNAL.response()(scope, receive, send)


def install(app: FastAPI) -> None:
    """Answer every error of an application with problem details."""

    async def problem(_request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = [
            {"pointer": "/" + "/".join(str(part) for part in item["loc"]), "detail": item["msg"]}
            for item in error.errors()[:50]
        ]
        malformed = any(item["type"] == "json_invalid" for item in error.errors())
        if malformed:
            return Problem(400, "malformed-json", "The body is not JSON.", errors=errors).response()
        return Problem(422, "invalid-request", "The request does not fit its schema.", errors=errors).response()

    async def http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        slug = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        return Problem(error.status_code, slug, str(error.detail), headers=error.headers).response()

    async def unauthorized(_request: Request, error: Exception) -> Response:
        return Problem(
            401,
            "invalid-token",
            f"The access token is not valid: {error}.",
            headers={"WWW-Authenticate": "Bearer"},
        ).response()

    async def closed(_request: Request, error: Exception) -> Response:
        assert isinstance(error, TenantClosed)
        return Closed(error).response()

    async def unavailable(_request: Request, error: Exception) -> Response:
        if getattr(error, "constraint_name", None) == HELD:
            return Moving().response()
        log.warning("dependency_unavailable", error=repr(error))
        return Problem(
            503,
            "unavailable",
            "A part this needs does not answer. Try again shortly.",
            headers={"Retry-After": "1"},
        ).response()

    async def data_error(_request: Request, error: Exception) -> Response:
        # The last line of defence: what PostgreSQL itself refuses to store, such as a NUL character.
        log.warning("value_refused_by_database", error=repr(error))
        return Problem(422, "invalid-value", "A value can't be stored: it is out of range or malformed.").response()

    async def sealed(_request: Request, error: Exception) -> Response:
        log.error("sealed_under_another_secret", error=str(error))
        detail = "The answer that was given is kept under a secret that is not known here any more."
        return Problem(409, "answer-not-readable", detail).response()

    async def undecodable(_request: Request, _error: Exception) -> Response:
        return Problem(400, "malformed-body", "The body is not valid UTF-8.").response()

    async def gone(_request: Request, _error: Exception) -> Response:
        return Response(status_code=499)

    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("unhandled_error", path=request.url.path, exc_info=error)
        return _INTERNAL.response()

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(InvalidToken, unauthorized)
    app.add_exception_handler(TenantClosed, closed)
    for kind in (
        SigningKeysUnavailable,
        asyncpg.PostgresConnectionError,
        asyncpg.CannotConnectNowError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.TooManyConnectionsError,
        asyncpg.QueryCanceledError,
        asyncpg.LockNotAvailableError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        ConnectionError,
        TimeoutError,
    ):
        app.add_exception_handler(kind, unavailable)
    app.add_exception_handler(asyncpg.DataError, data_error)
    app.add_exception_handler(CanNotBeOpened, sealed)
    app.add_exception_handler(UnicodeError, undecodable)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, unexpected)
