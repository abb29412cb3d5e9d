"""The AsyncAPI document against AsyncAPI's own JSON Schema, which its authors publish as an npm package."""

import base64
import copy
import hashlib
import json
import shutil
import subprocess
import tarfile
from typing import Any

import pytest
from jsonschema import Draft7Validator

from contracts.generate import asyncapi

PACKAGE = "@asyncapi/specs@6.11.1"
SHA512 = "A3WBLqAKGoJ2+6FWFtpjBlCQ1oFCcs4GxF7zsIGvNqp/klGUHjlA3aAcZ9XMMpLGE8zPeYDz2x9FmO6DSuKraQ=="


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Draft7Validator:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and AsyncAPI's own JSON Schema is an npm package")
    folder = tmp_path_factory.mktemp("asyncapi")
    command = [npm, "pack", PACKAGE, "--silent", "--prefer-offline", "--fetch-retries=5"]
    subprocess.run(command, cwd=folder, check=True, timeout=240, stdout=subprocess.DEVNULL)
    (packed,) = folder.glob("*.tgz")
    content = packed.read_bytes()
    assert base64.b64encode(hashlib.sha512(content).digest()).decode() == SHA512
    with tarfile.open(packed) as archive:
        member = archive.extractfile("package/schemas/3.0.0.json")
        assert member is not None
        return Draft7Validator(json.load(member))


def test_the_document_is_valid(official: Draft7Validator) -> None:
    assert [error.message for error in official.iter_errors(asyncapi())] == []


def _of_an_operation(document: dict[str, Any]) -> None:
    next(iter(document["operations"].values()))["action"] = "publish"


def _of_a_channel(document: dict[str, Any]) -> None:
    next(iter(document["channels"].values()))["topic"] = "no such field"


def _of_a_binding(document: dict[str, Any]) -> None:
    next(iter(document["channels"].values()))["bindings"]["kafka"]["partitions"] = "six"


@pytest.mark.parametrize("spoil", [_of_an_operation, _of_a_channel, _of_a_binding])
def test_the_schema_refuses_what_is_wrong(official: Draft7Validator, spoil: Any) -> None:
    document = copy.deepcopy(asyncapi())
    spoil(document)
    assert list(official.iter_errors(document))
