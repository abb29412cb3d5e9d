"""Every pod keeps to the "restricted" Pod Security Standard."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.deploy.kubernetes.rendered import Resource, kind, workloads

_EXPORTS = {"name": "exports", "persistentVolumeClaim": {"claimName": "exports"}}


def unsafe(resources: list[Resource]) -> list[str]:
    """Return what keeps a pod from the "restricted" Pod Security Standard, and what else it should not have."""
    found = []
    for workload in workloads(resources):
        pod = workload.spec
        context = pod.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            found.append(f"{workload.name} may run as root")
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            found.append(f"{workload.name} has no seccomp profile")
        if pod.get("automountServiceAccountToken") is not False or pod.get("enableServiceLinks") is not False:
            found.append(f"{workload.name} is given a token, or the cluster's services, without need")
        if pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}:
            found.append(f"{workload.name} shares a namespace with its host")
        held = [volume for volume in pod.get("volumes", []) if not volume.keys() & {"emptyDir", "secret"}]
        known = [_EXPORTS] if workload.component == "worker" else []
        found += [f"{workload.name} mounts {volume}" for volume in held if volume not in known]
        for container in workload.containers:
            place = f"{workload.name}/{container['name']}"
            own = container.get("securityContext", {})
            if own.keys() & {"runAsUser", "runAsNonRoot", "privileged", "seccompProfile"}:
                found.append(f"{place} overrides its pod")
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
                found.append(f"{place} has privileges")
            if own.get("readOnlyRootFilesystem") is not True:
                found.append(f"{place} can write its root file system")
            for bound in ("requests", "limits"):
                if container.get("resources", {}).get(bound, {}).keys() != {"cpu", "memory"}:
                    found.append(f"{place} has no {bound}")
    return found


def test_every_pod_is_restricted(resources: list[Resource]) -> None:
    assert unsafe(resources) == []
    (namespace,) = kind(resources, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


Change = Callable[[Resource], Any]


@pytest.mark.parametrize(
    "change",
    [
        lambda pod: pod["securityContext"].pop("runAsNonRoot"),
        lambda pod: pod["securityContext"].update(runAsUser=0),
        lambda pod: pod["securityContext"].pop("seccompProfile"),
        lambda pod: pod["containers"][0]["securityContext"].update(runAsUser=0),
        lambda pod: pod["containers"][0].pop("securityContext"),
        lambda pod: pod["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
        lambda pod: pod["containers"][0]["securityContext"].update(
            capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}
        ),
        lambda pod: pod["containers"][0].pop("resources"),
        lambda pod: pod.update(hostNetwork=True),
        lambda pod: pod.setdefault("volumes", []).append({"name": "host", "hostPath": {"path": "/"}}),
        lambda pod: pod.setdefault("volumes", []).append(
            {"name": "data", "persistentVolumeClaim": {"claimName": "data-dotmac-brokers-0"}}
        ),
    ],
)
def test_a_pod_that_is_not_restricted_is_noticed(production: list[Resource], change: Change) -> None:
    changed = copy.deepcopy(production)
    change(workloads(changed)[0].spec)
    assert unsafe(changed)
