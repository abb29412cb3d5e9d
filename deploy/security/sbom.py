"""The software bill of materials (CycloneDX 1.6): `python -m deploy.security.sbom`, from the lock files.

What the images run is `required`; what only develops and tests the platform is `excluded` from what is shipped.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[2]
EVERYTHING, SHIPPED = _ROOT / "requirements.lock", _ROOT / "requirements.runtime.lock"
VERSION = SchemaVersion.V1_6
_LICENSES = LicenseFactory()


class InvalidBill(Exception):
    """What was made is not CycloneDX; the message says where."""


@dataclass(frozen=True)
class Pin:
    """A line of a lock file: one version of a package, for the machines that its marker names."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]
    """SHA-256 of each file that may be installed, in hexadecimal."""

    @property
    def purl(self) -> PackageURL:
        return PackageURL("pypi", name=self.name, version=self.version)


def pins(lock: Path) -> Iterator[Pin]:
    """Read a lock file."""
    for entry in lock.read_text().replace("\\\n", " ").splitlines():
        text, *hashes = re.split(r"\s--hash=sha256:", entry.strip())
        if text and not text.startswith("#"):
            requirement = Requirement(text.strip())
            (pinned,) = requirement.specifier
            marker = str(requirement.marker) if requirement.marker else None
            yield Pin(canonicalize_name(requirement.name), pinned.version, marker, tuple(h.strip() for h in hashes))


def bill(everything: Path = EVERYTHING, shipped: Path = SHIPPED) -> str:
    """Return the bill as JSON, the same for the same locks; InvalidBill if it doesn't fit CycloneDX's schema."""
    required = {pin.purl for pin in pins(shipped)}
    all_pins = list(pins(everything))
    components = {pin.purl: _component(pin, pin.purl in required) for pin in all_pins}
    platform = Component(
        name="dotmac-platform",
        version=metadata.version("dotmac-platform"),
        type=ComponentType.APPLICATION,
        bom_ref="dotmac-platform",
    )
    bom = Bom(components=components.values())
    bom.metadata.component = platform
    bom.metadata.timestamp = datetime.fromtimestamp(0, UTC)  # what it says changes with the locks, not with the day
    bom.serial_number = uuid5(NAMESPACE_URL, everything.read_text() + shipped.read_text())
    by_name: dict[str, list[Component]] = {}
    for component in components.values():
        by_name.setdefault(component.name, []).append(component)
    bom.register_dependency(platform, _found(_needs("dotmac-platform"), by_name))
    for component in components.values():
        bom.register_dependency(component, _found(_needs(component.name), by_name))
    text: str = make_outputter(bom, OutputFormat.JSON, VERSION).output_as_string(indent=1)
    error = JsonStrictValidator(VERSION).validate_str(text)
    if error is not None:
        raise InvalidBill(str(error))
    return text


def _component(pin: Pin, required: bool) -> Component:
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        purl=pin.purl,
        bom_ref=str(pin.purl),
        scope=ComponentScope.REQUIRED if required else ComponentScope.EXCLUDED,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=content) for content in pin.hashes],
        licenses=[_LICENSES.make_from_string(text) for text in _license(pin.name)],
        description=f"only where {pin.marker}" if pin.marker else None,
    )


def _license(name: str) -> Iterator[str]:
    """Yield what an installed package says of its license in one line, if it does."""
    with suppress(metadata.PackageNotFoundError):
        said = metadata.metadata(name)
        text = next((said[key] for key in ("License-Expression", "License") if key in said), "")
        if text and "\n" not in text and len(text) <= 64:
            yield text


def _needs(name: str) -> Iterator[str]:
    """Yield the names of the packages that an installed package can't do without."""
    with suppress(metadata.PackageNotFoundError):
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                yield canonicalize_name(requirement.name)


def _found(names: Iterable[str], by_name: dict[str, list[Component]]) -> list[Component]:
    return [component for name in sorted(set(names)) for component in by_name.get(name, ())]


if __name__ == "__main__":
    sys.stdout.write(bill() + "\n")
