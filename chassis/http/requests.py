"""What every request must be, checked before anything else looks at it, and cheaply."""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.http.problem import Problem

LARGEST_BODY = 2 * 1024 * 1024
LARGEST_STREAM = 512 * 1024 * 1024
DEEPEST_JSON = 32
# What a path may be made of (RFC 3986): the characters of segments, and escapes that are looked at below.
_PATH = re.compile(rb"/|(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+")
_DOTS = re.compile(rb"(?:^|/)\.{1,2}(?:/|$)")
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile(rb"[\x00-\x1f\x7f/\\%]")
_JSON = re.compile(rb"application/(?:[\w.+-]+\+)?json\s*(?:;|$)", re.IGNORECASE)


def refusal(path: bytes, coding: bytes | None) -> Problem | None:
    """Return why a request can't be let in by its head alone, or None.

    `path` is as it came, without the query; `coding` is what Content-Encoding says.

    Paths have one spelling: an escaped slash, a dot segment or a doubly escaped character means one thing to one
    part of a system and another to the next. Bodies come as they are: what unpacks them could be made to burst.
    """
    if not _PATH.fullmatch(path) or (b"." in path and _DOTS.search(path)):
        return _malformed_path()
    if b"%" in path:
        if _ESCAPE.search(path):
            return _malformed_path()
        for segment in path[1:].split(b"/"):
            decoded = unquote_to_bytes(segment)
            if _FORBIDDEN.search(decoded) or decoded in (b".", b"..") or not _is_text(decoded):
                return _malformed_path()
    if coding is not None and coding.strip().lower() not in (b"", b"identity"):
        return Problem(
            415,
            "unsupported-content-encoding",
            "Send the body as it is, without Content-Encoding.",
            headers={"Accept-Encoding": "identity"},
        )
    return None


def _malformed_path() -> Problem:
    return Problem(400, "malformed-path", "The path is not one that this API has: it has no such characters.")


def _is_text(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


class StrictHeads:
    """ASGI middleware that answers what `refusal` refuses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = None
        if scope["type"] == "http":
            codings = [value for name, value in scope["headers"] if name == b"content-encoding"]
            problem = refusal(scope["raw_path"], b",".join(codings) if codings else None)
        if problem is not None:
            await problem.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class BoundedBodies:
    """ASGI middleware that refuses bodies that are too large, and JSON that can be read in more than one way.

    Bodies are taken in whole, which bounds what a request can hold in memory; `streams` are the paths of the
    operations that take theirs in piece by piece.
    """

    def __init__(self, app: ASGIApp, streams: Collection[str] = ()) -> None:
        self._app = app
        self._streams = frozenset(streams)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (length := _declared_length(scope)) == 0:
            await self._app(scope, receive, send)
            return
        largest = LARGEST_STREAM if scope["path"] in self._streams else LARGEST_BODY
        try:
            if length is not None and length > largest:
                raise _too_large(largest)
            if largest == LARGEST_STREAM:
                receive = _counted(receive, largest)
            else:
                receive = await _taken_in(receive, largest, json=_is_json(scope))
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _declared_length(scope: Scope) -> int | None:
    """Return the length of the body that is to come, or None if the head does not say."""
    length: int | None = 0
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value)
    return length


def _is_json(scope: Scope) -> bool:
    return any(name == b"content-type" and _JSON.match(value) for name, value in scope["headers"])


def _too_large(largest: int) -> Problem:
    return Problem(413, "body-too-large", f"The body may have at most {largest:,} bytes.")


def _counted(receive: Receive, largest: int) -> Receive:
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > largest:
            raise _too_large(largest)
        return message

    return counted


async def _taken_in(receive: Receive, largest: int, *, json: bool) -> Receive:
    """Take in a body, check it, and return what gives it again."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return receive
        body += message.get("body", b"")
        if len(body) > largest:
            raise _too_large(largest)
        if not message.get("more_body"):
            break
    if json:
        check_json(bytes(body))
    whole: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

    async def again() -> Message:
        nonlocal whole
        if whole is None:
            return await receive()
        message, whole = whole, None
        return message

    return again


def check_json(body: bytes) -> None:
    """Problem 400 unless this is UTF-8 without a mark, nested at most 32 deep, and has no name twice in an object.

    A name that comes twice means the first to one reader and the last to another (RFC 8259, section 4).
    """
    if not body:
        return
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Problem(400, "malformed-body", "The body is not valid UTF-8.") from error
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "malformed-json", f"The body is not JSON: {_reason(error)}.") from error
    level = [value]
    for _ in range(DEEPEST_JSON):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise Problem(400, "malformed-json", f"The body is nested more than {DEEPEST_JSON} deep.")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    object_ = dict(pairs)
    if len(object_) != len(pairs):
        raise ValueError("a name comes more than once in an object")
    return object_


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _reason(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return f"{error.msg.lower()} at character {error.pos}"
        case RecursionError():
            return "it is nested too deep"
    return str(error)
