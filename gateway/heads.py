"""The heads of requests and answers: what of them goes on, what stays, and what is said anew."""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from chassis.http.deadline import DEADLINE

Headers = Sequence[tuple[bytes, bytes]]
"""Fields as they came; names in lower case."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""What concerns one connection only (RFC 9110, section 7.6.1)."""
# What the gateway says to the services itself.
_OURS = frozenset(
    {
        b"expect",
        b"forwarded",
        b"host",
        b"traceparent",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-request-id",
        DEADLINE,
    }
)
_STAYS = HOP_BY_HOP | _OURS
_LOOKED_AT = _OURS | {
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"origin",
    b"transfer-encoding",
}
_ANSWER_STAYS = HOP_BY_HOP | {b"x-request-id"}
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestHead:
    """What a request says of itself."""

    __slots__ = ("chunked", "facts", "fields", "length")

    def __init__(self, headers: Headers) -> None:
        facts: dict[bytes, bytes] = {}
        fields: list[bytes] = []
        for name, value in headers:
            if name in _LOOKED_AT:
                facts[name] = b"%b, %b" % (facts[name], value) if name in facts else value
            if name not in _STAYS:
                fields += (name, b": ", value, b"\r\n")
        if b"connection" in facts:
            fields = _without(fields, _named(facts[b"connection"]))
        self.facts = facts
        """The fields that are looked at; all of them together where one came more than once."""
        self.chunked = b"transfer-encoding" in facts
        length = facts.get(b"content-length")
        self.length = int(length) if length is not None else 0
        self.fields: list[bytes] = fields
        """What goes on, ready to be joined."""

    @property
    def has_body(self) -> bool:
        """Whether something follows the head."""
        return self.chunked or self.length > 0

    @property
    def request_id(self) -> bytes | None:
        """The client's name for the request, if it gave a fit one."""
        value = self.facts.get(b"x-request-id")
        return value if value is not None and _REQUEST_ID.fullmatch(value) else None


def answer_head(
    status: int,
    headers: Headers,
    ours: bytes,
    *,
    unless_said: Headers = (),
    chunks: bool,
    bodiless: bool,
    keep_alive: bool,
) -> tuple[list[bytes], bool, bool]:
    """Return the head of an answer, ready to be joined; whether its body is sent in chunks; whether one may go on.

    `ours`: fields of the gateway's own, each with its line end. `unless_said`: fields for what the answer does not say
    itself. `chunks`: whether the client understands chunks.
    """
    named: Collection[bytes] = ()
    head = [STATUS_LINE.get(status) or b"HTTP/1.1 %d \r\n" % status]
    said = set()
    for name, value in headers:
        said.add(name)
        if name == b"connection":
            named = {*named, *_named(value)}
        if name not in _ANSWER_STAYS:
            head += (name, b": ", value, b"\r\n")
    if named:
        head = head[:1] + _without(head[1:], named)
    for name, value in unless_said:
        if name not in said:
            head += (name, b": ", value, b"\r\n")
    head.append(ours)
    delimited = bodiless or b"content-length" in said or status in (204, 304)
    chunked = chunks and not delimited
    if chunked:
        head.append(b"transfer-encoding: chunked\r\n")
    elif not delimited:
        keep_alive = False
    if not keep_alive:
        head.append(b"connection: close\r\n")
    head.append(b"\r\n")
    return head, chunked, keep_alive


@lru_cache(maxsize=64)
def _named(value: bytes) -> frozenset[bytes]:
    """Return the names of fields that a `Connection` field gives."""
    return frozenset(token.strip().lower() for token in value.split(b",")) - {b"close", b"keep-alive", b""}


def _without(fields: list[bytes], names: Collection[bytes]) -> list[bytes]:
    if not names:
        return fields
    lines = [fields[i : i + 4] for i in range(0, len(fields), 4)]
    return [part for line in lines if line[0] not in names for part in line]
