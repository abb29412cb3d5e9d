"""Reads, renders and validates the manifests."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

FOLDER = Path(__file__).parent
OVERLAYS = ("development", "production")
VERSIONS = ("1.32", "1.37")
"""The oldest Kubernetes that the manifests are for, and the newest whose schemas we have."""

Resource = dict[str, Any]

_KUSTOMIZE = 5
_OPERATORS: dict[str, Any] = yaml.safe_load((FOLDER / "operators.yaml").read_text())
"""The schemas of custom resources by `apiVersion/kind`: the fields that we use, and no others."""


class RenderError(Exception):
    """An overlay can't be rendered; the message is kustomize's."""


def files() -> dict[Path, list[Resource]]:
    """Return the resources in the files, as they were written."""
    found = {}
    for path in sorted(FOLDER.rglob("*.yaml")):
        resources = [item for item in yaml.safe_load_all(path.read_text()) if isinstance(item, dict)]
        if path.name != "kustomization.yaml" and any("kind" in item for item in resources):
            found[path] = resources
    return found


def renderer() -> list[str] | None:
    """Return the command that renders a folder: kustomize, or a kubectl that holds kustomize 5 or newer; else None."""
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    kustomize = shutil.which("kustomize", path=places)
    if kustomize:
        return [kustomize, "build"]
    kubectl = shutil.which("kubectl", path=places)
    if kubectl is None:
        return None
    answer = subprocess.run(
        [kubectl, "version", "--client", "--output=json"], capture_output=True, text=True, check=False
    )
    version = json.loads(answer.stdout or "{}").get("kustomizeVersion", "v0")
    return [kubectl, "kustomize"] if int(version.lstrip("v").split(".")[0]) >= _KUSTOMIZE else None


def render(overlay: str, command: list[str]) -> list[Resource]:
    """Return the resources of an overlay."""
    folder = str(FOLDER / "overlays" / overlay)
    done = subprocess.run([*command, folder], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RenderError(f"{overlay}: {done.stderr.strip()}")
    return list(yaml.safe_load_all(done.stdout))


def problems(resources: Iterable[Resource], where: str) -> list[str]:
    """Return what is wrong with resources by the Kubernetes API's schemas and those of the operators."""
    found = []
    for resource in resources:
        name = f"{where}: {resource['kind']} {resource.get('metadata', {}).get('name')}"
        custom = _OPERATORS.get(f"{resource['apiVersion']}/{resource['kind']}")
        if custom is not None:
            errors = jsonschema.Draft202012Validator(custom).iter_errors(resource)
            found += [f"{name}: {error.json_path}: {error.message}" for error in errors]
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(resource, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(f"{name}: Kubernetes {version}: {error.json_path}: {error.message}")
            except kubernetes_validate.SchemaNotFoundError as error:
                found.append(f"{name}: {error.message}")
    return found
