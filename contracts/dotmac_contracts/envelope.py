"""The envelope: CloudEvents 1.0 in Kafka's binary content mode. The value is plain JSON, the rest are headers."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from dotmac_contracts.topics import Topic

CONTENT_TYPE = "application/json"
STRUCTURED_TYPE = "application/cloudevents+json"
"""The media type of `structured`."""
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

    def as_value(self) -> bytes | None:
        """Return the record's value: JSON, or none of a tombstone."""
        return to_json(self)


class Tombstone(Event):
    """An aggregate is gone, and so is what a compacted topic kept of it. The record has no value: Kafka deletes what
    it has of the key, and the headers say the rest."""

    def as_value(self) -> None:
        """Return that there is none."""

    @classmethod
    def of(cls, tenant_id: UUID | str, key: UUID | str) -> Self:
        """Return the tombstone of an aggregate, from what key and headers say."""
        return cls.model_validate({"tenant_id": tenant_id, cls.TOPIC.key: key})


class Envelope(NamedTuple):
    """What is known of an event beside its data. `id` and `source` together are unique; `time` is aware, in UTC.

    `actor` is who made it happen, by an id; `actorkind` says what that is: `user`, `platform` (a user of the
    platform's own), `api-key`, `service-account`, `anonymous` (nobody who signed in) or `system`, which needs no id.
    `clientaddress` is the IP address that the actor's request came from. What follows from an event keeps its actor.
    """

    id: UUID
    source: str
    type: str
    time: datetime
    partitionkey: str
    tenantid: UUID
    aggregateversion: int
    subject: str | None = None
    causationid: UUID | None = None
    correlationid: UUID | None = None
    traceparent: str | None = None
    actor: str | None = None
    actorkind: str | None = None
    clientaddress: str | None = None


class Record(NamedTuple):
    """A Kafka record."""

    topic: str
    key: bytes
    headers: list[tuple[str, bytes]]
    value: bytes | None
    """None is a tombstone's."""


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("it has no time zone")
    return moment


_REQUIRED: dict[str, Callable[[str], Any]] = {
    "id": UUID,
    "source": str,
    "type": str,
    "time": _moment,
    "partitionkey": str,
    "tenantid": UUID,
    "aggregateversion": int,
}
_OPTIONAL: dict[str, Callable[[str], Any]] = {
    "subject": str,
    "causationid": UUID,
    "correlationid": UUID,
    "actor": str,
    "actorkind": str,
    "clientaddress": str,
}
_READERS = [(name, f"ce_{name}", read) for name, read in {**_REQUIRED, **_OPTIONAL}.items()]


# The events of a bulk are of one moment and of few tenants.


@lru_cache(maxsize=16)
def _written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


@lru_cache(maxsize=1024)
def _named(tenant_id: UUID) -> str:
    return str(tenant_id)


def headers_of(envelope: Envelope) -> dict[str, str]:
    """Return the headers of an event, as text."""
    headers = {
        "content-type": CONTENT_TYPE,
        "ce_specversion": SPECVERSION,
        "ce_id": str(envelope.id),
        "ce_source": envelope.source,
        "ce_type": envelope.type,
        "ce_time": _written(envelope.time),
        "ce_partitionkey": envelope.partitionkey,
        "ce_tenantid": _named(envelope.tenantid),
        "ce_aggregateversion": str(envelope.aggregateversion),
    }
    # One by one: a loop over their names takes twice as long, and each event comes by here.
    if envelope.subject is not None:
        headers["ce_subject"] = envelope.subject
    if envelope.causationid is not None:
        headers["ce_causationid"] = str(envelope.causationid)
    if envelope.correlationid is not None:
        headers["ce_correlationid"] = str(envelope.correlationid)
    if envelope.actor is not None:
        headers["ce_actor"] = envelope.actor
    if envelope.actorkind is not None:
        headers["ce_actorkind"] = envelope.actorkind
    if envelope.clientaddress is not None:
        headers["ce_clientaddress"] = envelope.clientaddress
    if envelope.traceparent is not None:
        headers["traceparent"] = envelope.traceparent
    return headers


def structured(event: Event, envelope: Envelope) -> bytes:
    """Return an event as one JSON document: CloudEvents' structured mode, for those who don't read Kafka.

    From which address it was done is left out: where these documents go, that is nobody's business.
    """
    attributes: dict[str, str | int] = {
        name.removeprefix("ce_"): value
        for name, value in headers_of(envelope._replace(clientaddress=None)).items()
        if name.startswith("ce_")
    }
    attributes["aggregateversion"] = envelope.aggregateversion
    attributes["datacontenttype"] = CONTENT_TYPE
    value = event.as_value()
    if value is None:
        return to_json(attributes)
    # The data is JSON already, and most of the document: it is put in as it is.
    return to_json(attributes)[:-1] + b',"data":' + value + b"}"


def encode(event: Event, envelope: Envelope) -> Record:
    """Return the Kafka record of an event."""
    headers = [(name, value.encode()) for name, value in headers_of(envelope).items()]
    return Record(event.TOPIC.name, event.key.encode(), headers, event.as_value())


def decode_envelope(headers: Iterable[tuple[str, bytes]]) -> Envelope:
    """Return the envelope in a record's headers; DecodeError says what is missing or malformed."""
    try:
        texts = {name: value.decode() for name, value in headers if value is not None}
    except UnicodeDecodeError as error:
        raise DecodeError(f"a header is not UTF-8: {error}") from error
    if texts.get("ce_specversion") != SPECVERSION:
        raise DecodeError(f"ce_specversion must be {SPECVERSION}, it is {texts.get('ce_specversion')!r}")
    missing = [f"ce_{name}" for name in _REQUIRED if f"ce_{name}" not in texts]
    if missing:
        raise DecodeError(f"headers are missing: {', '.join(missing)}")
    fields: dict[str, Any] = {"traceparent": texts.get("traceparent")}
    for name, header, read in _READERS:
        text = texts.get(header)
        if text is not None:
            try:
                fields[name] = read(text)
            except ValueError as error:
                raise DecodeError(f"the header {header} is malformed: {error}") from error
    return Envelope(**fields)


def decode(headers: Sequence[tuple[str, bytes]], value: bytes | None) -> tuple[Envelope, Event]:
    """Return the envelope and the typed event of a record, a Tombstone if it has no value; DecodeError says why it
    isn't one."""
    envelope = decode_envelope(headers)
    kind = EVENTS.get(envelope.type)
    if kind is None:
        raise UnknownEventType(f"no event is called {envelope.type!r}")
    try:
        if issubclass(kind, Tombstone):
            if value is not None:
                raise DecodeError(f"a {kind.__name__} has no value, and the record has one")
            return envelope, kind.of(envelope.tenantid, envelope.partitionkey)
        if value is None:
            raise DecodeError("the record has no value")
        return envelope, kind.model_validate_json(value)
    except ValidationError as error:
        raise DecodeError(f"the value is not a {kind.__name__}: {_reasons(error)}") from error


def _reasons(error: ValidationError) -> str:
    # Never the input: an event that went wrong may hold what must not be logged.
    found = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in found)
