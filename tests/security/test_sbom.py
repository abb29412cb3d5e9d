"""The bill of materials is valid, complete, and the same for the same locks."""

import json
from pathlib import Path

import pytest
from cyclonedx.validation.json import JsonStrictValidator

from deploy.security import sbom


def test_the_bill_is_valid_and_names_every_pin_with_its_hashes() -> None:
    text = sbom.bill()
    assert JsonStrictValidator(sbom.VERSION).validate_str(text) is None
    found = {component["purl"]: component for component in json.loads(text)["components"]}
    for lock in (sbom.EVERYTHING, sbom.SHIPPED):
        for pin in sbom.pins(lock):
            component = found[str(pin.purl)]
            assert {made["content"] for made in component["hashes"]} >= set(pin.hashes)
            assert pin.hashes
    assert len(found) == len(list(sbom.pins(sbom.EVERYTHING)))


def test_what_is_shipped_is_told_from_what_only_tests_it() -> None:
    found = {component["name"]: component for component in json.loads(sbom.bill())["components"]}
    assert found["fastapi"]["scope"] == found["aiokafka"]["scope"] == "required"
    assert found["schemathesis"]["scope"] == found["pytest"]["scope"] == "excluded"
    assert found["fastapi"]["licenses"][0]["license"]["id"] == "MIT"


def test_the_bill_has_the_dependencies_and_is_the_same_again() -> None:
    text = sbom.bill()
    assert sbom.bill() == text
    graph = {entry["ref"]: entry.get("dependsOn", []) for entry in json.loads(text)["dependencies"]}
    names = {ref.split("/")[-1].split("@")[0] for ref in graph["dotmac-platform"]}
    assert {"fastapi", "aiokafka", "asyncpg"} <= names
    (fastapi,) = (ref for ref in graph if ref.startswith("pkg:pypi/fastapi@"))
    assert any("/starlette@" in ref for ref in graph[fastapi])


def test_a_pin_without_a_version_is_no_lock(tmp_path: Path) -> None:
    loose = tmp_path / "loose.lock"
    loose.write_text("fastapi>=1,<2 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(ValueError, match="unpack"):
        list(sbom.pins(loose))
