"""The envelope: CloudEvents 1.0 in Kafka's binary content mode. The value is plain JSON, the rest are headers."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from dotmac_contracts.topics import Topic

CONTENT_TYPE = "application/json"
SPECVERSION = "1.0"


class DecodeError(ValueError):
    """A record is not an event of these contracts; the message says why."""


class UnknownEventType(DecodeError):
    """The record is a CloudEvent, of a type that this version of the contracts does not know."""


EVENTS: dict[str, type["Event"]] = {}
"""Every event by its CloudEvents type."""


class Event(BaseModel):
    """A fact, or a request to another service. Unknown fields are ignored: a newer producer may send more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tenant_id: UUID

    TOPIC: ClassVar[Topic]
    TYPE: ClassVar[str]

    def __init_subclass__(cls, *, topic: Topic | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if topic is None:  # a base that only shares fields
            return
        cls.TOPIC = topic
        cls.TYPE = f"dotmac.{topic.domain}.{cls.__name__}"
        if cls.TYPE in EVENTS:
            raise TypeError(f"two events are called {cls.TYPE}")
        EVENTS[cls.TYPE] = cls

    @property
    def key(self) -> str:
        """The id of the aggregate, which is the record's key."""
        return str(getattr(self, self.TOPIC.key))


class Envelope(BaseModel):
    """What is known of an event beside its data. `id` and `source` together are unique."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    source: str
    type: str
    time: datetime
    subject: str | None = None
    partitionkey: str
    tenantid: UUID
    aggregateversion: int
    causationid: UUID | None = None
    correlationid: UUID | None = None
    traceparent: str | None = None


class Record(NamedTuple):
    """A Kafka record."""

    topic: str
    key: bytes
    headers: list[tuple[str, bytes]]
    value: bytes


_REQUIRED = ("id", "source", "type", "time", "partitionkey", "tenantid", "aggregateversion")
_OPTIONAL = ("subject", "causationid", "correlationid")


def headers_of(envelope: Envelope) -> dict[str, str]:
    """Return the headers of an event, as text."""
    headers = {
        "content-type": CONTENT_TYPE,
        "ce_specversion": SPECVERSION,
        "ce_id": str(envelope.id),
        "ce_source": envelope.source,
        "ce_type": envelope.type,
        "ce_time": envelope.time.isoformat().replace("+00:00", "Z"),
        "ce_partitionkey": envelope.partitionkey,
        "ce_tenantid": str(envelope.tenantid),
        "ce_aggregateversion": str(envelope.aggregateversion),
    }
    for name in _OPTIONAL:
        value = getattr(envelope, name)
        if value is not None:
            headers[f"ce_{name}"] = str(value)
    if envelope.traceparent is not None:
        headers["traceparent"] = envelope.traceparent
    return headers


def encode(event: Event, envelope: Envelope) -> Record:
    """Return the Kafka record of an event."""
    headers = [(name, value.encode()) for name, value in headers_of(envelope).items()]
    return Record(event.TOPIC.name, event.key.encode(), headers, event.model_dump_json().encode())


def decode_envelope(headers: Iterable[tuple[str, bytes]]) -> Envelope:
    """Return the envelope in a record's headers; DecodeError says what is missing or malformed."""
    try:
        texts = {name: value.decode() for name, value in headers if value is not None}
    except UnicodeDecodeError as error:
        raise DecodeError(f"a header is not UTF-8: {error}") from error
    if texts.get("ce_specversion") != SPECVERSION:
        raise DecodeError(f"ce_specversion must be {SPECVERSION}, it is {texts.get('ce_specversion')!r}")
    missing = [name for name in _REQUIRED if f"ce_{name}" not in texts]
    if missing:
        raise DecodeError(f"headers are missing: {', '.join('ce_' + name for name in missing)}")
    fields = {name: texts[f"ce_{name}"] for name in (*_REQUIRED, *_OPTIONAL) if f"ce_{name}" in texts}
    try:
        return Envelope.model_validate({**fields, "traceparent": texts.get("traceparent")})
    except ValidationError as error:
        raise DecodeError(f"a header is malformed: {_reasons(error)}") from error


def decode(headers: Sequence[tuple[str, bytes]], value: bytes | None) -> tuple[Envelope, Event]:
    """Return the envelope and the typed event of a record; DecodeError says why it isn't one."""
    envelope = decode_envelope(headers)
    kind = EVENTS.get(envelope.type)
    if kind is None:
        raise UnknownEventType(f"no event is called {envelope.type!r}")
    if value is None:
        raise DecodeError("the record has no value")
    try:
        return envelope, kind.model_validate_json(value)
    except ValidationError as error:
        raise DecodeError(f"the value is not a {kind.__name__}: {_reasons(error)}") from error


def _reasons(error: ValidationError) -> str:
    # Never the input: an event that went wrong may hold what must not be logged.
    found = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in found)
