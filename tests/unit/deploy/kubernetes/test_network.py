"""Every connection that is needed is allowed, and nothing else."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from chassis.settings import Settings
from deploy.roles import SERVICES
from gateway.settings import GatewaySettings
from tests.unit.deploy.kubernetes.rendered import DATABASE_URLS, ROOT, Resource, environment, kind, workloads


@dataclass(frozen=True)
class Pod:
    """An end of a connection: its labels, and those of its namespace."""

    labels: tuple[tuple[str, str], ...]
    namespace: tuple[tuple[str, str], ...] = (("kubernetes.io/metadata.name", "dotmac"),)


def pod(labels: dict[str, str] | None = None, namespace: str = "dotmac", **more: str) -> Pod:
    place = {"kubernetes.io/metadata.name": namespace, **more}
    return Pod(tuple((labels or {}).items()), tuple(place.items()))


POSTGRES = pod({"cnpg.io/cluster": "postgres"})
KAFKA = pod({"strimzi.io/cluster": "dotmac"})
DNS = pod({"k8s-app": "kube-dns"}, "kube-system")
PROMETHEUS = pod(namespace="monitoring")
OUTSIDE = pod({"app": "anything"}, "elsewhere")
INTERNET = pod(namespace="the internet")
ENTRY = pod(namespace="entry", **{"dotmac.example/reaches-gateway": "true"})


def matches(selector: Resource, labels: tuple[tuple[str, str], ...]) -> bool:
    have = dict(labels)
    if not selector.get("matchLabels", {}).items() <= have.items():
        return False
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In"
        if have.get(rule["key"]) not in rule["values"]:
            return False
    return True


def policies(resources: list[Resource]) -> list[Resource]:
    """Return the network policies, with the one that Strimzi makes of a listener's peers."""
    found = [item["spec"] for item in kind(resources, "NetworkPolicy").values()]
    for name, cluster in kind(resources, "Kafka").items():
        rules = [
            {"from": listener["networkPolicyPeers"], "ports": [{"port": listener["port"]}]}
            for listener in cluster["spec"]["kafka"]["listeners"]
        ]
        selector = {"matchLabels": {"strimzi.io/cluster": name}}
        found.append({"podSelector": selector, "policyTypes": ["Ingress"], "ingress": rules})
    return found


def allowed(rules: list[Resource], source: Pod, target: Pod, port: int, names: dict[str, int]) -> bool:
    """Whether a connection may be made: nothing selects the end, or one of the policies that select it allows it."""

    def end(mine: Pod, other: Pod, direction: str, peers: str) -> bool:
        if dict(mine.namespace)["kubernetes.io/metadata.name"] != "dotmac":
            return True
        own = [rule for rule in rules if direction in rule["policyTypes"] and matches(rule["podSelector"], mine.labels)]
        return not own or any(
            _peer(rule.get(peers), other) and _port(rule.get("ports"), port, names)
            for policy in own
            for rule in policy.get(direction.lower(), [])
        )

    return end(source, target, "Egress", "to") and end(target, source, "Ingress", "from")


def _peer(peers: list[Resource] | None, other: Pod) -> bool:
    if peers is None:
        return True
    for peer in peers:
        if "ipBlock" in peer:
            if other == INTERNET:
                return True
            continue
        assert peer.keys() <= {"podSelector", "namespaceSelector"}
        here = dict(other.namespace)["kubernetes.io/metadata.name"] == "dotmac"
        if "namespaceSelector" in peer:
            here = matches(peer["namespaceSelector"], other.namespace)
        if here and matches(peer.get("podSelector", {}), other.labels):
            return True
    return False


def _port(ports: list[Resource] | None, port: int, names: dict[str, int]) -> bool:
    return ports is None or any(names.get(item["port"], item["port"]) == port for item in ports)


Path_ = tuple[str, Pod, Pod, int]


def paths(resources: list[Resource]) -> Iterator[Path_]:
    """Give every connection that a process makes: to the hosts in those of its settings that its code uses."""
    pods = {item.name: pod(item.labels) for item in workloads(resources)}
    used_by_all = _settings_used(ROOT / "chassis")
    for workload in workloads(resources):
        source = pods[workload.name]
        yield f"{workload.name} → DNS", source, DNS, 53
        for container in workload.containers:
            variables = environment(resources, workload, container)
            if workload.component == "gateway":
                used = {name for name in GatewaySettings.model_fields if name.endswith(("_url", "_servers"))}
            else:
                used = used_by_all | _settings_used(ROOT / "services" / workload.service) | set(DATABASE_URLS)
            if workload.component == "api":
                used -= {"gateway_url"}  # a worker verifies deployments
            for name in sorted(used):
                value = variables.get(name.upper(), "")
                address = urlsplit(value if "://" in value else f"tcp://{value}")
                if value and ("://" in value or ":" in value) and not value.startswith("secret."):
                    yield f"{workload.name} → {name}", source, *_end(resources, pods, address.hostname, address.port)
        if workload.component != "migration":
            yield f"Prometheus → {workload.name}", PROMETHEUS, source, 8000
    yield "integration-worker → webhook endpoints", pods["integration-worker"], INTERNET, 443
    yield "entry → gateway", ENTRY, pods["gateway"], 8000
    yield "KEDA → Kafka", pod(namespace="keda"), KAFKA, 9093
    yield "operator → PostgreSQL", pod(namespace="cnpg-system"), POSTGRES, 8000
    yield "PostgreSQL → PostgreSQL", POSTGRES, POSTGRES, 5432
    yield "Prometheus → PostgreSQL", PROMETHEUS, POSTGRES, 9187


def _settings_used(folder: Path) -> set[str]:
    text = "".join(path.read_text() for path in folder.rglob("*.py") if path.name != "settings.py")
    return set(re.findall(r"settings\.(\w+)", text)) & Settings.model_fields.keys()


def _end(resources: list[Resource], pods: dict[str, Pod], host: str | None, port: int | None) -> tuple[Pod, int]:
    if host == "postgres-rw":
        return POSTGRES, port or 5432
    if host == "dotmac-kafka-bootstrap":
        return KAFKA, port or 9093
    if host and host.endswith(".monitoring"):
        return PROMETHEUS, port or 80
    service = kind(resources, "Service")[host or ""]
    (name,) = [name for name, it in pods.items() if service["spec"]["selector"].items() <= dict(it.labels).items()]
    assert service["spec"]["ports"] == [
        {"name": "http", "port": port or 80, "targetPort": "http", "appProtocol": "http"}
    ]
    return pods[name], 8000


NAMES = {"http": 8000}


def test_every_connection_that_is_needed_is_allowed(resources: list[Resource]) -> None:
    rules = policies(resources)
    needed_paths = list(paths(resources))
    named = {name for name, *_ in needed_paths}
    assert {
        "gateway → billing_url",
        "gateway → kafka_bootstrap_servers",
        "customer-api → jwks_url",
        "customer-api → kafka_bootstrap_servers",
        "provisioning-worker → gateway_url",
        "billing-worker → kafka_bootstrap_servers",
        "tenant-worker → relay_database_url",
    } <= named
    assert [name for name, *ends in needed_paths if not allowed(rules, *ends, NAMES)] == []


def test_without_any_one_policy_something_is_cut_off(production: list[Resource]) -> None:
    for dropped in kind(production, "NetworkPolicy"):
        if dropped == "default-deny":
            continue
        left = [it for it in production if (it["kind"], it["metadata"]["name"]) != ("NetworkPolicy", dropped)]
        cut = [name for name, *ends in paths(production) if not allowed(policies(left), *ends, NAMES)]
        # Kafka's and PostgreSQL's own restrict as well as allow: without one of them its pods can't reach anything.
        assert cut or not allowed(policies(left), KAFKA, OUTSIDE, 443, NAMES), dropped


def test_nothing_else_is_allowed(resources: list[Resource]) -> None:
    rules = policies(resources)
    pods = {item.name: pod(item.labels) for item in workloads(resources)}
    apis = [pods[f"{service}-api"] for service in SERVICES]
    refused = [(OUTSIDE, target, 8000) for target in pods.values()]
    refused += [(source, OUTSIDE, 443) for source in pods.values()]
    refused += [(source, INTERNET, 443) for name, source in pods.items() if name != "integration-worker"]
    refused += [(OUTSIDE, POSTGRES, 5432), (OUTSIDE, KAFKA, 9093)]
    refused += [(pods["gateway"], POSTGRES, 5432), (ENTRY, POSTGRES, 5432), (ENTRY, KAFKA, 9093)]
    refused += [(ENTRY, api, 8000) for api in apis]
    refused += [(target, KAFKA, 9093) for name, target in pods.items() if "-migrate-" in name]
    refused += [(api, pods["gateway"], 8000) for api in apis]
    refused += [(source, pods[f"{name}-api"], 8000) for source in apis for name in SERVICES if name != "tenant"]
    refused += [(source, pods[f"{name}-worker"], 8000) for source in pods.values() for name in SERVICES]
    assert [ends for ends in refused if allowed(rules, *ends, NAMES)] == []


def test_what_is_allowed_beyond_the_cluster_is_public(resources: list[Resource]) -> None:
    """The service looks at each address itself; the network lets it reach none of ours anyway."""
    blocks = [
        peer["ipBlock"]
        for policy in kind(resources, "NetworkPolicy").values()
        for rule in policy["spec"].get("egress", [])
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    ]
    assert blocks
    private = ["10.1.2.3", "172.20.0.1", "192.168.1.1", "169.254.169.254", "127.0.0.1", "100.64.0.1", "fd00::1", "::1"]
    for address in map(ip_address, private):
        for block in blocks:
            outer, inner = ip_network(block["cidr"]), map(ip_network, block.get("except", []))
            assert address not in outer or any(address in network for network in inner), address
