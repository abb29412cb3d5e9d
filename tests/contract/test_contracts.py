import copy
import json
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from contracts.generate import problems, releases, sample_of, schema_of, value_of, violations
from dotmac_contracts.customer import CustomerCreated
from dotmac_contracts.envelope import (
    EVENTS,
    DecodeError,
    Event,
    Tombstone,
    UnknownEventType,
    decode,
    encode,
    structured,
)
from dotmac_contracts.topics import ALL

_RELEASED = [
    (f"{release} {name}", sample)
    for release, content in releases().items()
    for name, sample in content["samples"].items()
]
SAMPLES = [pytest.param(sample, id=name) for name, sample in _RELEASED if sample["value"] is not None]
TOMBSTONES = [pytest.param(sample, id=name) for name, sample in _RELEASED if sample["value"] is None]
CUSTOMER = sample_of(CustomerCreated)


def headers_in(sample: dict[str, Any]) -> list[tuple[str, bytes]]:
    return [(name, value.encode()) for name, value in sample["headers"].items()]


def record(sample: dict[str, Any]) -> tuple[list[tuple[str, bytes]], bytes]:
    value = value_of(sample)
    assert value is not None
    return headers_in(sample), value


def test_what_is_committed_is_what_the_models_say() -> None:
    assert problems() == []


@pytest.mark.parametrize("sample", SAMPLES)
def test_todays_models_read_released_samples_and_ignore_unknown_fields(sample: dict[str, Any]) -> None:
    headers, value = record(sample)
    envelope, event = decode(headers, json.dumps({**json.loads(value), "added_later": 1}).encode())
    assert json.loads(event.model_dump_json(exclude_unset=True)) == json.loads(value)
    assert envelope.partitionkey == event.key


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_cloudevents_sdk_reads_our_records(sample: dict[str, Any]) -> None:
    headers, value = record(sample)
    message = KafkaMessage(headers=dict(headers), key=b"k", value=value)
    event = from_binary(message, JSONFormat())
    ours, _ = decode(headers, value)
    assert event.get_id() == str(ours.id)
    assert event.get_type() == ours.type
    assert event.get_source() == ours.source
    assert event.get_data() == json.loads(value)


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_cloudevents_sdk_reads_our_documents(sample: dict[str, Any]) -> None:
    envelope, ours = decode(*record(sample))
    document = structured(ours, envelope)
    event = JSONFormat().read(CloudEvent, document)
    assert (event.get_id(), event.get_type(), event.get_source()) == (str(envelope.id), ours.TYPE, envelope.source)
    assert event.get_time() == envelope.time
    assert event.get_subject() == envelope.subject
    assert event.get_datacontenttype() == "application/json"
    assert event.get_data() == json.loads(ours.model_dump_json())
    extensions = ("tenantid", "partitionkey", "aggregateversion")
    assert [event.get_extension(name) for name in extensions] == [str(ours.tenant_id), ours.key, 1]
    # Who did it is said where the platform is; from which address, only its own log says.
    assert event.get_extension("actor") == envelope.actor
    assert event.get_extension("actorkind") == envelope.actorkind
    assert b"clientaddress" not in document
    assert b"\n" not in document


def test_each_snapshot_has_a_tombstone() -> None:
    compacted = {topic for topic in ALL if topic.compacted}
    assert {event.TOPIC for event in EVENTS.values() if issubclass(event, Tombstone)} == compacted
    assert len(TOMBSTONES) >= len(compacted)


@pytest.mark.parametrize("sample", TOMBSTONES)
def test_a_tombstone_has_no_value_and_is_read_from_its_key_and_headers(sample: dict[str, Any]) -> None:
    envelope, event = decode(headers_in(sample), None)
    assert isinstance(event, Tombstone)
    assert (event.key, str(event.tenant_id)) == (sample["key"], sample["headers"]["ce_tenantid"])
    assert encode(event, envelope).value is None
    message = KafkaMessage(headers=dict(headers_in(sample)), key=sample["key"].encode(), value=None)
    read = from_binary(message, JSONFormat())
    assert (read.get_type(), read.get_data()) == (event.TYPE, None)
    document = JSONFormat().read(CloudEvent, structured(event, envelope))
    assert (document.get_id(), document.get_data()) == (str(envelope.id), None)
    with pytest.raises(DecodeError, match="has no value"):
        decode(headers_in(sample), b"{}")
    malformed = [(name, b"no id" if name == "ce_partitionkey" else value) for name, value in headers_in(sample)]
    with pytest.raises(DecodeError, match="is not a"):
        decode(malformed, None)


def change(schema: dict[str, Any], kind: str) -> None:
    properties = schema["properties"]
    if kind == "removed field":
        del properties["name"]
        schema["required"].remove("name")
    elif kind == "new required field":
        properties["surname"] = {"type": "string"}
        schema["required"].append("surname")
    elif kind == "narrowed type":
        properties["paperless_billing"]["type"] = "integer"
    elif kind == "renamed enum value":
        properties["status"]["enum"] = ["active", "ended"]


@pytest.mark.parametrize("kind", ["removed field", "new required field", "narrowed type", "renamed enum value"])
def test_a_breaking_change_is_caught(kind: str) -> None:
    schema = schema_of(CustomerCreated)
    broken = copy.deepcopy(schema)
    change(broken, kind)
    assert violations(schema, broken)


@pytest.mark.parametrize("kind", ["removed field", "new required field", "narrowed type", "renamed enum value"])
def test_a_change_that_breaks_only_an_older_release_is_caught(kind: str) -> None:
    name = "customer.CustomerCreated.v1"
    released = copy.deepcopy(releases())
    oldest = next(iter(released.values()))
    assert problems(released) == []
    # As if the oldest release had been what today's is not.
    today = schema_of(CustomerCreated)
    oldest["schemas"][name] = copy.deepcopy(today)
    if kind == "removed field":
        oldest["schemas"][name]["properties"]["fax"] = {"type": "string"}
    elif kind == "new required field":
        oldest["schemas"][name]["required"].remove("name")
    elif kind == "narrowed type":
        oldest["schemas"][name]["properties"]["paperless_billing"]["type"] = "string"
    else:
        oldest["schemas"][name]["properties"]["status"]["enum"] = ["active", "gone"]
    found = problems(released)
    assert found
    assert all(text.startswith(name) for text in found)


def test_a_released_sample_that_can_not_be_read_and_an_event_that_is_gone_are_caught() -> None:
    released = copy.deepcopy(releases())
    oldest = next(iter(released.values()))
    del oldest["samples"]["customer.CustomerCreated.v1"]["value"]["name"]
    oldest["schemas"]["billing.Forgotten.v1"] = {}
    found = problems(released)
    assert len(found) == 2
    assert "can't be read any more" in found[1] + found[0]
    assert "is gone" in found[1] + found[0]


def test_an_added_optional_field_is_no_violation() -> None:
    schema = schema_of(CustomerCreated)
    grown = copy.deepcopy(schema)
    grown["properties"]["nickname"] = {"type": "string"}
    assert violations(schema, grown) == []


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ce_specversion", b"2.0", "specversion"),
        ("ce_id", b"not-a-uuid", "id"),
        ("ce_source", b"\xff", "UTF-8"),
        ("ce_aggregateversion", b"one", "aggregateversion"),
    ],
)
def test_a_malformed_header_is_named(name: str, value: bytes, reason: str) -> None:
    headers, body = record(CUSTOMER)
    with pytest.raises(DecodeError, match=reason):
        decode([(key, value if key == name else old) for key, old in headers], body)


def test_a_missing_header_a_missing_value_and_an_unknown_type_are_named() -> None:
    headers, body = record(CUSTOMER)
    with pytest.raises(DecodeError, match="ce_tenantid"):
        decode([header for header in headers if header[0] != "ce_tenantid"], body)
    with pytest.raises(DecodeError, match="no value"):
        decode(headers, None)
    with pytest.raises(DecodeError, match="is not a"):
        decode(headers, b"{")
    with pytest.raises(UnknownEventType):
        decode([(key, b"dotmac.x.Y" if key == "ce_type" else old) for key, old in headers], body)


def test_every_topic_has_events_with_its_key_and_every_event_is_described() -> None:
    for topic in ALL:
        events: list[type[Event]] = [event for event in EVENTS.values() if event.TOPIC is topic]
        assert events
        for event in events:
            assert topic.key in event.model_fields
            assert event.__doc__
            assert all(field.description for name, field in event.model_fields.items() if name != "tenant_id")
            assert sample_of(event)["headers"]["ce_type"] == event.TYPE
