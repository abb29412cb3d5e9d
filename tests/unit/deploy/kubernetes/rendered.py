"""What is in the rendered manifests: resources, workloads, and the environment of their containers."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[4]
Resource = dict[str, Any]
HAVE = "app.kubernetes.io/"
DATABASE_URLS = {
    "database_url": "api",
    "consumer_database_url": "consumer",
    "relay_database_url": "relay",
    "migration_database_url": "owner",
}


def kind(resources: list[Resource], name: str) -> dict[str, Resource]:
    return {item["metadata"]["name"]: item for item in resources if item["kind"] == name}


@dataclass(frozen=True)
class Workload:
    """A Deployment or a Job: its pods' labels and specification."""

    name: str
    labels: dict[str, str]
    spec: Resource

    @property
    def component(self) -> str:
        return self.labels[f"{HAVE}component"]

    @property
    def service(self) -> str:
        return self.labels[f"{HAVE}name"]

    @property
    def containers(self) -> list[Resource]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def workloads(resources: list[Resource]) -> list[Workload]:
    return [
        Workload(item["metadata"]["name"], template["metadata"]["labels"], template["spec"])
        for item in resources
        if item["kind"] in ("Deployment", "Job")
        for template in [item["spec"]["template"]]
    ]


def environment(resources: list[Resource], workload: Workload, container: Resource) -> dict[str, str]:
    """Return what a container finds in its environment, as the kubelet makes it; a secret as `secret.<name>.<key>.`."""
    config = kind(resources, "ConfigMap")
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        assert source.keys() == {"configMapRef"}, "secrets are named key by key"
        found |= config[source["configMapRef"]["name"]]["data"]
    for entry in container.get("env", []):
        origin = entry.get("valueFrom", {})
        if "secretKeyRef" in origin:
            value = f"secret.{origin['secretKeyRef']['name']}.{origin['secretKeyRef']['key']}.".ljust(40, ".")
        elif "fieldRef" in origin:
            value = workload.labels[re.fullmatch(r"metadata\.labels\['(.+)'\]", origin["fieldRef"]["fieldPath"])[1]]  # type: ignore[index]
        else:
            value = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], entry["value"])
        found[entry["name"]] = value
    return found


def command(resources: list[Resource], workload: Workload, container: Resource) -> list[str]:
    variables = environment(resources, workload, container)
    return [re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], part) for part in container["command"]]


def roles(resources: list[Resource], workload: Workload, container: Resource) -> set[str]:
    """Return the roles that a process is given."""
    return set(filter(None, environment(resources, workload, container).get("ROLES", "").split(",")))


def mounted_secrets(workload: Workload, container: Resource) -> set[str]:
    """Return the files of secrets that a container finds."""
    volumes = {volume["name"]: volume for volume in workload.spec.get("volumes", [])}
    return {
        f"{mount['mountPath']}/{item['path']}"
        for mount in container.get("volumeMounts", [])
        for item in volumes[mount["name"]].get("secret", {}).get("items", [])
    }
