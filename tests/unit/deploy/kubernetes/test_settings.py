"""What the processes are given: the settings that they need, and no secret by its value."""

import copy
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from chassis.settings import Settings
from deploy.roles import SERVICES
from gateway.settings import GatewaySettings
from tests.unit.deploy.kubernetes.rendered import (
    DATABASE_URLS,
    ROOT,
    Resource,
    Workload,
    environment,
    kind,
    mounted_secrets,
    roles,
    workloads,
)


def needed(settings: type[Any]) -> set[str]:
    """Return the settings whose default can't be right in a cluster: empty, of this machine, or for development."""
    defaults = settings(_env_file=None) if settings is GatewaySettings else Settings.model_construct()
    return {
        name
        for name, field in settings.model_fields.items()
        if (value := _plain(getattr(defaults, name))) == "" or "127.0.0.1" in value or "development" in value
        if name not in DATABASE_URLS and field.annotation is not None
    }


def _plain(value: Any) -> str:
    return str(value.get_secret_value() if hasattr(value, "get_secret_value") else "none" if value is None else value)


def missing_settings(resources: list[Resource]) -> list[str]:
    """Return which settings a process needs and is not given, and which database it is given without need."""
    found = []
    for workload in workloads(resources):
        for container in workload.containers:
            variables = environment(resources, workload, container)
            place = f"{workload.name}/{container['name']}"
            if container["name"] == "schema":
                urls = {"database_url"}
            elif workload.component == "migration":
                urls = {"migration_database_url"}
            else:
                settings = GatewaySettings if workload.component == "gateway" else Settings
                lacking = sorted(name for name in needed(settings) if not variables.get(name.upper()))
                found += [f"{place} lacks {name.upper()}" for name in lacking]
                taken = roles(resources, workload, container)
                urls = {name for name, role in DATABASE_URLS.items() if role in taken}
                found += _signs_in_to_kafka(workload, container, variables)
            given = {name for name in DATABASE_URLS if variables.get(name.upper())}
            found += [f"{place} lacks {name.upper()}" for name in sorted(urls - given)]
            found += [f"{place} has {name.upper()} without need" for name in sorted(given - urls)]
            for name in given:
                service, role = workload.service, DATABASE_URLS[name]
                url = urlsplit(variables[name.upper()])
                if (url.username, url.path) != (f"{service}_{role}", f"/dotmac_{service}"):
                    found.append(f"{place}: {name.upper()} is not {service}'s own")
                options = parse_qs(url.query)
                checked = options.get("sslrootcert", [""])[0] in mounted_secrets(workload, container)
                if options.get("sslmode") != ["verify-full"] or not checked:
                    found.append(f"{place}: {name.upper()} does not check the server's certificate")
                if f"secret.{service}-database-{role}.password." not in (url.password or ""):
                    found.append(f"{place}: {name.upper()} has not the password of {service}-database-{role}")
    return found


def _signs_in_to_kafka(workload: Workload, container: Resource, variables: dict[str, str]) -> list[str]:
    user = f"{workload.service}-api" if workload.component == "api" else workload.service
    wanted = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": user}
    found = [
        f"{workload.name}: {name} is not {value}" for name, value in wanted.items() if variables.get(name) != value
    ]
    if not variables.get("KAFKA_SASL_PASSWORD", "").startswith(f"secret.{user}-kafka.password."):
        found.append(f"{workload.name} lacks KAFKA_SASL_PASSWORD")
    if variables.get("KAFKA_CA_FILE") not in mounted_secrets(workload, container):
        found.append(f"{workload.name} does not check the broker's certificate")
    return found


def test_every_process_is_given_the_settings_it_needs_and_no_database_beyond(resources: list[Resource]) -> None:
    assert {"secret_key", "jwt_secret_key", "kafka_bootstrap_servers", "jwks_url", "host"} <= needed(Settings)
    assert {f"{service}_url" for service in SERVICES} <= needed(GatewaySettings)
    assert missing_settings(resources) == []


@pytest.mark.parametrize("name", ["SECRET_KEY", "DATABASE_URL", "RELAY_DATABASE_URL", "KAFKA_SASL_PASSWORD"])
def test_a_missing_setting_is_noticed(production: list[Resource], name: str) -> None:
    changed = copy.deepcopy(production)
    for workload in workloads(changed):
        for container in workload.containers:
            container["env"] = [entry for entry in container.get("env", []) if entry["name"] != name]
    assert any(name in text for text in missing_settings(changed))


def test_a_missing_configuration_value_is_noticed(production: list[Resource]) -> None:
    for name in [name.upper() for name in needed(Settings) | needed(GatewaySettings)]:
        if name in ("SECRET_KEY", "JWT_SECRET_KEY"):
            continue
        changed = copy.deepcopy(production)
        for config in kind(changed, "ConfigMap").values():
            config["data"].pop(name, None)
        assert any(text.endswith(f"lacks {name}") for text in missing_settings(changed)), name


def test_the_processes_accept_their_environment(
    resources: list[Resource], overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for workload in workloads(resources):
        if workload.component == "migration":
            continue
        (container,) = workload.spec["containers"]
        variables = environment(resources, workload, container)
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            if workload.component == "gateway":
                assert GatewaySettings().customer_url == "http://customer-api"
                continue
            settings = Settings()
        assert settings.environment == overlay
        assert (settings.host, settings.port) == ("0.0.0.0", container["ports"][0]["containerPort"])


def test_every_name_in_the_configuration_is_a_setting(resources: list[Resource]) -> None:
    known = {name.upper() for settings in (Settings, GatewaySettings) for name in settings.model_fields}
    for config in kind(resources, "ConfigMap").values():
        assert config["data"].keys() <= known | {"POSTGRES_HOST", "POSTGRES_OPTIONS"}


SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|PRIVATE|CREDENTIAL|REDIS_URL|BOOTSTRAP_ADMIN")


def inlined_secrets(resources: list[Resource]) -> list[str]:
    """Return where a secret stands in the manifests by its value."""
    found = [f"Secret {name}" for name in kind(resources, "Secret")]
    for name, config in kind(resources, "ConfigMap").items():
        found += [f"ConfigMap {name}: {key}" for key, value in config.get("data", {}).items() if _tells(key, value)]
    for workload in workloads(resources):
        for container in workload.containers:
            found += [
                f"{workload.name}: {entry['name']}"
                for entry in container.get("env", [])
                if "value" in entry and _tells(entry["name"], entry["value"])
            ]
            said = " ".join([*container.get("command", []), *container.get("args", [])])
            found += [f"{workload.name}: its command"] * bool(re.search(r"://[^\s:/]*:(?!\$\()", said))
    return found


def _tells(name: str, value: str) -> bool:
    if SECRET.search(name):
        return True
    passwords = re.findall(r"://[^\s:/@]*:([^\s@]*)@", value)
    return any(not re.fullmatch(r"\$\(\w+\)", password) for password in passwords)


def test_no_secret_stands_in_the_manifests(resources: list[Resource]) -> None:
    assert inlined_secrets(resources) == []


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "SECRET_KEY", "value": "0123456789abcdef0123456789abcdef"},
        {"name": "DATABASE_URL", "value": "postgresql://tenant_api:hunter2@postgres-rw/dotmac_tenant"},
        {"name": "REDIS_URL", "value": "redis://:hunter2@redis:6379"},
    ],
)
def test_a_secret_in_the_manifests_is_noticed(production: list[Resource], entry: dict[str, str]) -> None:
    changed = copy.deepcopy(production)
    workloads(changed)[0].spec["containers"][0]["env"].append(entry)
    assert len(inlined_secrets(changed)) == 1
    changed = copy.deepcopy(production)
    next(iter(kind(changed, "ConfigMap").values()))["data"][entry["name"]] = entry["value"]
    assert len(inlined_secrets(changed)) == 1
    assert inlined_secrets([*production, {"kind": "Secret", "metadata": {"name": "x"}, "stringData": {"a": "b"}}])


def test_the_secrets_referred_to_are_those_of_the_documentation(production: list[Resource]) -> None:
    referred = {
        (origin["name"], origin["key"], origin.get("optional", False))
        for workload in workloads(production)
        for container in workload.containers
        for entry in container.get("env", [])
        if (origin := entry.get("valueFrom", {}).get("secretKeyRef"))
    }
    for workload in workloads(production):
        for volume in workload.spec.get("volumes", []):
            if secret := volume.get("secret"):
                referred |= {(secret["secretName"], item["key"], False) for item in secret["items"]}
    for cluster in kind(production, "Cluster").values():
        for role in cluster["spec"]["managed"]["roles"]:
            referred |= {(role["passwordSecret"]["name"], key, False) for key in ("username", "password")}
    for user in kind(production, "KafkaUser").values():
        password = user["spec"]["authentication"]["password"]["valueFrom"]["secretKeyRef"]
        referred.add((password["name"], password["key"], False))
    for authentication in kind(production, "TriggerAuthentication").values():
        referred |= {(it["name"], it["key"], False) for it in authentication["spec"]["secretTargetRef"]}
    documented = set()
    table = re.findall(r"^\| `([\w<>-]+)`( \(optional\))? \| (.+?) \|", _page(), re.MULTILINE)
    for name, optional, keys in table:
        for service in SERVICES if "<service>" in name else [""]:
            for key in re.findall(r"`([\w.]+)`", keys):
                documented.add((name.replace("<service>", service), key, bool(optional)))
    assert referred == documented


def _page() -> str:
    return (ROOT / "docs" / "operations" / "kubernetes.md").read_text()
