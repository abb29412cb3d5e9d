"""What `deploy/compose.yaml` promises: who is told which secret, who may write, what can be reached from where."""

import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from deploy import compose
from deploy.roles import LOGINS, SERVICES, login, password_variable

ROOT = Path(__file__).parents[3]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
CONTAINERS: dict[str, Any] = FILE["services"]
PLATFORM = {name for name, container in CONTAINERS.items() if "DOTMAC_IMAGE" in container["image"]}
API = {
    name: {password_variable(login(name, "api")), f"{name.upper()}_SECRET_KEY", "JWT_SECRET_KEY"} for name in SERVICES
}
WORKER = {
    f"{name}-worker": {
        password_variable(login(name, "consumer")),
        password_variable(login(name, "relay")),
        f"{name.upper()}_SECRET_KEY",
        "JWT_SECRET_KEY",
    }
    for name in SERVICES
}
ALLOWED = {
    "postgres": {"POSTGRES_PASSWORD"},
    "prepare": {"POSTGRES_PASSWORD", *map(password_variable, LOGINS)},
    **API,
    **WORKER,
    "tenant": {"BOOTSTRAP_ADMIN_PASSWORD", *API["tenant"]},
    "grafana": {"GRAFANA_PASSWORD"},
}


def test_every_service_runs_as_an_api_and_as_a_worker_behind_one_gateway() -> None:
    assert {f"{name}{role}" for name in SERVICES for role in ("", "-worker")} | {"gateway", "prepare"} == PLATFORM
    for name in SERVICES:
        api, worker = CONTAINERS[name], CONTAINERS[f"{name}-worker"]
        assert api["command"] == worker["command"] == ["python", "-m", f"services.{name}"]
        assert (api["environment"]["ROLES"], worker["environment"]["ROLES"]) == ("api", "consumer,relay")


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_told_the_secrets_of_its_own_job_and_no_other(name: str) -> None:
    environment = CONTAINERS[name].get("environment", {})
    text = yaml.safe_dump(environment)
    assert set(re.findall(r"\$\{(\w+_(?:PASSWORD|SECRET_KEY))\b", text)) == ALLOWED.get(name, set())
    assert "env_file" not in CONTAINERS[name]


def test_no_secret_stands_in_the_file() -> None:
    for name, container in CONTAINERS.items():
        for variable, value in container.get("environment", {}).items():
            if re.search("PASSWORD|SECRET", variable):
                assert re.fullmatch(r"\$\{\w+:\?.*\}", str(value)), (name, variable)
            assert not re.search(r"://[^:@/]+:(?!\$\{)[^@/]*@", str(value)), (name, variable)


@pytest.mark.parametrize("name", sorted(PLATFORM))
def test_a_container_of_the_platform_can_not_write_its_file_system_or_gain_rights(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["tmpfs"] == ["/tmp"]
    exports = container["environment"].get("EXPORT_DIRECTORY")
    assert (exports is not None) is (name in WORKER)
    assert container.get("volumes", []) == ([f"exports:{exports}"] if exports else [])


@pytest.mark.parametrize("name", CONTAINERS)
def test_no_container_has_rights_or_listens_beyond_this_machine(name: str) -> None:
    container = CONTAINERS[name]
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid"} & container.keys()
    assert all(port.startswith("127.0.0.1:") for port in container.get("ports", ()))


def test_a_process_shares_a_network_only_with_the_servers_that_it_needs() -> None:
    servers = {"postgres", "kafka"}
    reached = {
        name: {other for other in servers if set(container["networks"]) & set(CONTAINERS[other]["networks"])}
        for name, container in CONTAINERS.items()
        if name not in servers
    }
    processes = {f"{name}{role}": servers for name in SERVICES for role in ("", "-worker")}
    observers: dict[str, set[str]] = {name: set() for name in ("otel-collector", "jaeger", "prometheus", "grafana")}
    assert reached == {**processes, **observers, "gateway": {"kafka"}, "prepare": servers}


def test_every_process_knows_where_kafka_is() -> None:
    assert {CONTAINERS[name]["environment"]["KAFKA_BOOTSTRAP_SERVERS"] for name in PLATFORM} == {"kafka:19092"}


def test_what_is_mounted_is_there() -> None:
    for container in CONTAINERS.values():
        for mount in container.get("volumes", ()):
            source, _, options = mount.partition(":")
            if source.startswith("."):
                assert (ROOT / "deploy" / source).exists(), mount
                assert options.endswith(":ro"), mount
            else:
                assert source in FILE["volumes"], mount


def test_prometheus_asks_every_process() -> None:
    targets = yaml.safe_load((ROOT / "deploy" / "observability" / "compose-targets.yml").read_text())
    assert {name for group in targets for name in group["targets"]} == {
        f"{name}:8000" for name in PLATFORM - {"prepare"}
    }


def test_postgres_keeps_the_outbox_from_bloating() -> None:
    assert "-c autovacuum_naptime=2s -c autovacuum_vacuum_cost_delay=0" in CONTAINERS["postgres"]["command"]


def test_the_kafka_of_the_containers_is_the_kafka_of_the_local_stack() -> None:
    pom = (ROOT / "deploy" / "stack" / "kafka-pom.xml").read_text()
    version = re.search(r"<artifactId>kafka_2.13</artifactId>\s*<version>([\d.]+)</version>", pom)
    assert version and CONTAINERS["kafka"]["image"].endswith(f"apache/kafka:{version[1]}}}")


def test_secrets_are_made_once_and_only_their_owner_reads_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compose, "_SECRETS", tmp_path / ".env")
    assert compose.settings() == {}
    compose.keep_secrets()
    for name in re.findall(r"^\w+(?==)", (tmp_path / ".env").read_text(), re.MULTILINE):
        monkeypatch.delenv(name, raising=False)
    first = compose.settings()
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    made = [value for name, value in first.items() if re.search("PASSWORD|SECRET", name)]
    assert len(set(made)) == len(made) == len(LOGINS) + len(SERVICES) + 4
    assert all(re.fullmatch(r"[\w-]{43,}", value) for value in made)
    compose.keep_secrets()
    assert compose.settings() == first
    monkeypatch.setenv("GATEWAY_PORT", "18000")
    assert compose.settings() == {**first, "GATEWAY_PORT": "18000"}
    assert first.keys() >= set(re.findall(r"\$\{(\w+):\?", (ROOT / "deploy" / "compose.yaml").read_text()))


def pins(name: str) -> set[str]:
    return set(re.findall(r"^[\w.-]+==[^\\]+", (ROOT / name).read_text(), re.MULTILINE))


def test_the_runtime_pins_are_those_of_the_tests_without_the_tools() -> None:
    runtime, everything = pins("requirements.runtime.lock"), pins("requirements.lock")
    assert runtime <= everything
    names = {pin.split("==")[0] for pin in runtime}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {Requirement(text).name for text in project["dependencies"]} <= names
    extras = {Requirement(text).name for extra in project["optional-dependencies"].values() for text in extra}
    assert not names & extras
