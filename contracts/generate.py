"""Writes JSON Schemas, golden samples and the AsyncAPI document from the models; `--check` compares instead.

`--release` freezes them as a version: everything that was ever released must fit today's models (see `problems`).
"""

import json
import sys
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict
from uuid import UUID

import yaml
from jsonschema import Draft202012Validator

from dotmac_contracts.envelope import EVENTS, Envelope, Event, Tombstone, decode, encode
from dotmac_contracts.topics import ALL

ROOT = Path(__file__).resolve().parent
_MOMENT = "2026-01-01T00:00:00Z"
_TAKEN_BACK = " A record without a value says that the aggregate of its key is gone."
_ID = UUID("01900000-0000-7000-8000-000000000001")


class Release(TypedDict):
    """A version that was released: schemas and golden samples by event name."""

    schemas: dict[str, dict[str, Any]]
    samples: dict[str, dict[str, Any]]


def schema_of(event: type[Event]) -> dict[str, Any]:
    """Return the JSON Schema of an event's value."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": event.TYPE, **_value_schema(event)}


def _value_schema(event: type[Event], ref_template: str = "#/$defs/{model}") -> dict[str, Any]:
    schema: dict[str, Any] = event.model_json_schema(ref_template=ref_template)
    if issubclass(event, Tombstone):
        return {"title": schema["title"], "description": schema["description"], "type": "null"}
    return schema


def sample_of(event: type[Event]) -> dict[str, Any]:
    """Return a record of an event: its headers and its value, the same at each call."""
    instance = event.model_validate(_example(event.model_json_schema(), event.model_json_schema()))
    envelope = Envelope(
        id=_ID,
        source=f"/services/{event.TOPIC.owner}",
        type=event.TYPE,
        time=datetime.fromisoformat(_MOMENT),
        subject=instance.key,
        partitionkey=instance.key,
        tenantid=instance.tenant_id,
        aggregateversion=1,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        actor=str(_ID),
        actorkind="user",
        clientaddress="203.0.113.7",
    )
    record = encode(instance, envelope)
    return {
        "topic": record.topic,
        "key": record.key.decode(),
        "headers": {name: value.decode() for name, value in record.headers},
        "value": None if record.value is None else json.loads(record.value),
    }


def value_of(sample: dict[str, Any]) -> bytes | None:
    """Return a sample's value as it stands in the record."""
    return None if sample["value"] is None else json.dumps(sample["value"]).encode()


def _example(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _example(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    if schema.get("examples"):
        return schema["examples"][0]
    if "properties" in schema:
        return {name: _example(part, root) for name, part in schema["properties"].items()}
    if "items" in schema:
        return [_example(schema["items"], root)]
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], root)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    formats = {"uuid": str(_ID), "date-time": _MOMENT, "date": "2026-01-01"}
    kinds = {"boolean": True, "integer": 1, "string": "text"}
    return formats.get(schema.get("format", ""), kinds.get(schema.get("type", ""), "text"))


def violations(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return how a new schema breaks those who rely on the old one, either way; empty when it doesn't.

    Consumers of the old version must understand what is sent now, and today's consumers what was sent before.
    """
    return _differences("", old, new, old, new)


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return found


def _differences(
    where: str, old: dict[str, Any], new: dict[str, Any], old_root: dict[str, Any], new_root: dict[str, Any]
) -> list[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    place = where or "the event"
    found: list[str] = []
    for name in ("type", "format", "pattern", "const", "enum", "maxLength", "minLength", "minimum", "maximum"):
        if old.get(name) != new.get(name):
            found.append(f"{place}: {name} was {old.get(name)!r} and is {new.get(name)!r}")
    before, after = old.get("properties", {}), new.get("properties", {})
    found += [f"{where}.{name} was removed" for name in before.keys() - after.keys()]
    required_before, required_after = set(old.get("required", ())), set(new.get("required", ()))
    found += [f"{where}.{name} is newly required" for name in required_after - required_before]
    found += [
        f"{where}.{name} was required and is optional" for name in (required_before - required_after) & after.keys()
    ]
    for name in sorted(before.keys() & after.keys()):
        found += _differences(f"{where}.{name}", before[name], after[name], old_root, new_root)
    old_any, new_any = old.get("anyOf", []), new.get("anyOf", [])
    if len(old_any) != len(new_any):
        found.append(f"{place}: its alternatives changed")
    for index, (first, second) in enumerate(zip(old_any, new_any, strict=False)):
        found += _differences(f"{where}[{index}]", first, second, old_root, new_root)
    if "items" in old and "items" in new:
        found += _differences(f"{where}[]", old["items"], new["items"], old_root, new_root)
    return sorted(found)


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3 document of all topics and events."""
    channels, operations, messages, schemas = {}, {}, {}, {}
    for topic in ALL:
        events = [event for event in EVENTS.values() if event.TOPIC is topic]
        channels[topic.name] = {
            "address": topic.name,
            "description": topic.description + (_TAKEN_BACK if topic.compacted else ""),
            "messages": {event.__name__: {"$ref": f"#/components/messages/{event.__name__}"} for event in events},
            "bindings": {
                "kafka": {
                    "topic": topic.name,
                    "partitions": topic.partitions,
                    "topicConfiguration": {
                        name: value.split(",") if name == "cleanup.policy" else int(value)
                        for name, value in topic.configuration.items()
                    },
                }
            },
        }
        operations[f"publish.{topic.name}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{topic.name}"},
            "summary": f"The {topic.owner} service tells of it.",
        }
        for event in events:
            schema = _value_schema(event, "#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[event.__name__] = schema
            messages[event.__name__] = {
                "name": event.TYPE,
                "title": event.__name__,
                "summary": (event.__doc__ or "").strip(),
                "contentType": "application/json",
                "headers": {"$ref": "#/components/schemas/CloudEventHeaders"},
                "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
                "bindings": {"kafka": {"key": {"type": "string", "format": "uuid", "description": topic.key}}},
            }
    required = ["id", "source", "type", "time", "partitionkey", "tenantid", "aggregateversion"]
    headers = ["specversion", *required, "subject", "causationid", "correlationid"]
    who = {
        "actor": "Who made it happen, by an id.",
        "actorkind": "What the actor is: `user`, `platform` (a user of the platform's own), `api-key`,"
        " `service-account`, `anonymous` or `system`; more may come.",
        "clientaddress": "The IP address that the actor's request came from.",
    }
    schemas["CloudEventHeaders"] = {
        "type": "object",
        "description": "CloudEvents 1.0 in Kafka's binary content mode.",
        "properties": {
            **{f"ce_{name}": {"type": "string"} for name in headers},
            **{f"ce_{name}": {"type": "string", "description": text} for name, text in who.items()},
            "content-type": {"const": "application/json"},
            "traceparent": {"type": "string", "description": "W3C trace context."},
        },
        "required": ["content-type", "ce_specversion", *(f"ce_{name}" for name in required)],
    }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "DotMac Platform events", "version": version()},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": dict(sorted(schemas.items()))},
    }


def files() -> dict[Path, str]:
    """Return what belongs in which file."""
    made = {ROOT / "asyncapi.yaml": yaml.safe_dump(asyncapi(), sort_keys=False, width=110)}
    for name, event in _named().items():
        made[ROOT / "schemas" / f"{name}.json"] = json.dumps(schema_of(event), indent=2) + "\n"
        made[ROOT / "samples" / f"{name}.json"] = json.dumps(sample_of(event), indent=2) + "\n"
    return made


def _named() -> dict[str, type[Event]]:
    return {f"{event.TOPIC.domain}.{event.__name__}.v1": event for event in EVENTS.values()}


def version() -> str:
    """Return the version of the contracts, from their distribution's metadata."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def releases() -> dict[str, Release]:
    """Return every version ever released, the oldest first."""
    paths = sorted((ROOT / "releases").glob("*.json"), key=lambda path: [int(part) for part in path.stem.split(".")])
    return {path.stem: json.loads(path.read_text()) for path in paths}


def problems(released: dict[str, Release] | None = None) -> list[str]:
    """Return what is wrong: stale files, and whatever breaks those who rely on any version ever released."""
    found = [
        f"{path.relative_to(ROOT)} is stale: run `make contracts` and commit it"
        for path, content in files().items()
        if not path.exists() or path.read_text() != content
    ]
    released = releases() if released is None else released
    today = _named()
    for release, content in released.items():
        for name, old in content["schemas"].items():
            if name not in today:
                found.append(f"{name} was released with {release} and is gone")
                continue
            # Both ways, and with every release: full transitive compatibility.
            broken = violations(old, schema_of(today[name]))
            found += [f"{name} since {release}: {text}: make a new version beside it instead" for text in broken]
            errors = Draft202012Validator(old).iter_errors(sample_of(today[name])["value"])
            found += [
                f"{name}: the schema of {release} refuses what is sent today: {error.message}" for error in errors
            ]
        for name, sample in content["samples"].items():
            try:
                headers = [(key, value.encode()) for key, value in sample["headers"].items()]
                decode(headers, value_of(sample))
            except ValueError as error:
                found.append(f"{name} was released with {release} and can't be read any more: {error}")
    newest = next(reversed(released.values()), None)
    if newest is None or newest["schemas"] != {name: schema_of(event) for name, event in today.items()}:
        found.append(
            "the events are not those of the newest release: raise the version and run `make release-contracts`"
        )
    if f"## {version()}" not in (ROOT / "CHANGELOG.md").read_text():
        found.append(f"CHANGELOG.md says nothing of {version()}")
    return found


def release() -> str:
    """Freeze today's schemas and samples as the present version; a version that was released stays as it is."""
    path = ROOT / "releases" / f"{version()}.json"
    if path.exists():
        return f"{version()} was released before: raise the version in contracts/pyproject.toml"
    named = _named()
    content: Release = {
        "schemas": {name: schema_of(event) for name, event in named.items()},
        "samples": {name: sample_of(event) for name, event in named.items()},
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return ""


def main() -> None:
    """Write, check, or release."""
    if sys.argv[1:] == ["--check"]:
        found = problems()
        sys.exit("\n".join(found) if found else None)
    for path, content in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    if sys.argv[1:] == ["--release"]:
        sys.exit(release() or None)


if __name__ == "__main__":
    main()
