"""What runs: a process for each role of each service, that can be asked, scaled, spread and stopped."""

import inspect
import re

import yaml

from chassis.http import health
from chassis.run import ROLES as PROCESS_ROLES
from deploy.roles import SERVICES
from tests.unit.deploy.kubernetes.rendered import ROOT, Resource, command, environment, kind, roles, workloads


def test_every_service_has_an_api_a_worker_and_a_migration_that_run_it(resources: list[Resource]) -> None:
    found = {(item.service, item.component): item for item in workloads(resources)}
    expected = {(service, part) for service in SERVICES for part in ("api", "worker", "migration")}
    assert found.keys() == expected | {("gateway", "gateway")}
    for (service, component), workload in found.items():
        container = workload.spec["containers"][0]
        said = command(resources, workload, container)
        if component == "gateway":
            assert said == ["python", "-m", "gateway"]
        elif component == "migration":
            assert said == ["python", "-m", "chassis.persistence.migrations", service]
        else:
            assert said == ["python", "-m", f"services.{service}"]
            given = environment(resources, workload, container)["ROLES"]
            assert given == {"api": "api", "worker": "consumer,relay"}[component]
            (waits,) = workload.spec["initContainers"]
            waiting = command(resources, workload, waits)
            assert waiting == ["python", "-m", "chassis.persistence.migrations", "--wait", service]
    taken = {role for item in found.values() for c in item.spec["containers"] for role in roles(resources, item, c)}
    assert taken == PROCESS_ROLES


def test_every_process_that_is_asked_has_an_address_a_budget_and_a_scale(resources: list[Resource]) -> None:
    asked = [*(f"{service}-api" for service in SERVICES), "gateway"]
    pods = {item.name: item for item in workloads(resources)}
    services, budgets = kind(resources, "Service"), kind(resources, "PodDisruptionBudget")
    scales = kind(resources, "HorizontalPodAutoscaler")
    assert services.keys() == set(asked) == scales.keys()
    assert budgets.keys() == {*asked, *(f"{service}-worker" for service in SERVICES)}
    for name in asked:
        selected = [
            pod.name for pod in pods.values() if services[name]["spec"]["selector"].items() <= pod.labels.items()
        ]
        assert selected == [name]
        assert scales[name]["spec"]["scaleTargetRef"]["name"] == name
    for name, budget in budgets.items():
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert [pod.name for pod in pods.values() if wanted <= pod.labels.items()] == [name]


def test_workers_write_what_a_leaving_tenant_takes_along_to_a_claim_that_they_share(resources: list[Resource]) -> None:
    assert "exports" in kind(resources, "PersistentVolumeClaim")
    for item in workloads(resources):
        (container,) = item.spec["containers"]
        folder = environment(resources, item, container).get("EXPORT_DIRECTORY")
        assert (folder is not None) is (item.component == "worker")
        if folder is not None:
            (volume,) = [v["name"] for v in item.spec["volumes"] if "persistentVolumeClaim" in v]
            assert {"name": volume, "mountPath": folder} in container["volumeMounts"]


def test_what_is_scaled_states_no_replicas_that_an_apply_would_put_back(resources: list[Resource]) -> None:
    assert [name for name, item in kind(resources, "Deployment").items() if "replicas" in item["spec"]] == []


def test_a_migration_belongs_to_its_release_and_refers_to_nothing_that_changes_within_it(
    resources: list[Resource],
) -> None:
    images = {container["image"] for item in workloads(resources) for container in item.containers}
    (image,) = images
    tag = image.rpartition(":")[2]
    assert kind(resources, "Job").keys() == {f"{service}-migrate-{tag}" for service in SERVICES}
    hashed = {name for name in kind(resources, "ConfigMap") if re.search(r"-[a-z0-9]{10}$", name)}
    assert hashed, "the other configuration is hashed, so that a change of it rolls the pods"
    for name, job in kind(resources, "Job").items():
        assert not any(config in yaml.safe_dump(job) for config in hashed), name


def test_processes_are_probed_where_they_answer_and_have_time_to_stop(resources: list[Resource]) -> None:
    # The server closes gracefully within so many seconds: what the code that starts it says.
    sources = "".join(path.read_text() for folder in ("chassis", "gateway") for path in (ROOT / folder).rglob("*.py"))
    graceful = max(map(int, re.findall(r"timeout_graceful_shutdown=(\d+)", sources)))
    routes = {"/health/live", "/health/ready", "/metrics"}
    assert all(f'"{route}"' in inspect.getsource(health) for route in routes)
    for deployment in kind(resources, "Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["path"] in routes
            assert asked["port"] in ports
        assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod["terminationGracePeriodSeconds"] >= pause + 2 * graceful
        annotations = deployment["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/path"] in routes
        assert int(annotations["prometheus.io/port"]) in ports.values()
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        spread = {item["topologyKey"]: item for item in pod["topologySpreadConstraints"]}
        assert spread.keys() == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert all(item["labelSelector"]["matchLabels"] == selector for item in spread.values())
