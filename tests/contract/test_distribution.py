"""`dotmac-contracts` as others install it: a wheel that needs pydantic and nothing else."""

import json
import re
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from contracts.generate import ROOT, sample_of, version
from dotmac_contracts.billing import InvoiceIssued

READ = """
import json, sys
from dotmac_contracts import decode
sample = json.load(sys.stdin)
headers = [(name, value.encode()) for name, value in sample["headers"].items()]
envelope, event = decode(headers, json.dumps(sample["value"]).encode())
print(type(event).__name__, event.total.amount_minor, envelope.tenantid)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "contracts"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "dotmac_contracts").mkdir()
    for path in (ROOT / "dotmac_contracts").iterdir():
        if path.is_file():
            (source / "dotmac_contracts" / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (made,) = folder.glob("*.whl")
    return made


def needed(name: str) -> set[str]:
    """Return what a distribution that is installed here needs, itself included."""
    found, todo = set[str](), [name]
    while todo:
        if (one := todo.pop()) not in found:
            found.add(one)
            for text in distribution(one).requires or ():
                requirement = Requirement(text)
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    todo.append(requirement.name)
    return found


def test_the_wheel_needs_pydantic_alone_and_says_its_version(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        (place,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(place).decode()
    assert re.findall(r"^Requires-Dist: (\w+)", metadata, re.MULTILINE) == ["pydantic"]
    assert f"Version: {version()}" in metadata
    assert "dotmac_contracts/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dotmac_contracts"}


def test_it_decodes_a_record_where_nothing_else_is_installed(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    paths = {"base": str(environment), "platbase": str(environment)}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    for name in needed("pydantic"):  # as they are installed here: nothing is fetched
        for file in distribution(name).files or ():
            if ".." not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(Path(str(file.locate())).read_bytes())
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run(install, check=True)  # it would fail if anything else were needed
    sample = sample_of(InvoiceIssued)
    done = subprocess.run(
        [python, "-I", "-c", READ],
        input=json.dumps(sample),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    value = sample["value"]
    assert done.stdout.split() == ["InvoiceIssued", str(value["total"]["amount_minor"]), value["tenant_id"]]
