"""The Job that has events continue after a recovery of the databases."""

from deploy.kubernetes import manifests
from deploy.roles import SERVICES, login
from tests.unit.deploy.kubernetes.rendered import Resource, Workload, environment, mounted_secrets, workloads
from tests.unit.deploy.kubernetes.test_network import KAFKA, NAMES, POSTGRES, allowed, pod, policies
from tests.unit.deploy.kubernetes.test_restricted import unsafe


def job() -> tuple[list[Resource], Workload]:
    written = manifests.files()[manifests.FOLDER / "recovery" / "replay.yaml"]
    (found,) = workloads(written)
    return written, found


def test_it_is_given_every_database_as_its_owner_and_the_broker(production: list[Resource]) -> None:
    written, workload = job()
    (container,) = workload.spec["containers"]
    config = [{"kind": "ConfigMap", "metadata": {"name": "recovery"}, "data": {"MOMENT": "2026-01-01T00:00:00Z"}}]
    variables = environment([*written, *production, *config], workload, container)
    for service in SERVICES:
        url = variables[f"{service.upper()}_DATABASE_URL"]
        assert url.startswith(f"postgresql://{login(service, 'owner')}:secret.{service}-database-owner.password.")
        assert f"@postgres-rw/dotmac_{service}?sslmode=verify-full&" in url
    brokers = {item["data"].get("KAFKA_BOOTSTRAP_SERVERS") for item in production if item["kind"] == "ConfigMap"}
    (user,) = [item for item in production if item["kind"] == "KafkaUser" and item["metadata"]["name"] == "recovery"]
    assert variables["KAFKA_SASL_USERNAME"] == user["metadata"]["name"]
    assert variables["KAFKA_SASL_PASSWORD"].startswith("secret.recovery-kafka.password.")
    assert variables["KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
    assert variables["KAFKA_CA_FILE"] in mounted_secrets(workload, container)
    assert variables["KAFKA_BOOTSTRAP_SERVERS"] in brokers
    assert container["command"] == ["python", "-m", "cli", "backup", "replay", "--moment", "$(MOMENT)"]


def test_it_is_restricted_and_reaches_the_servers(production: list[Resource]) -> None:
    written, workload = job()
    assert unsafe(written) == []
    rules = policies(production)
    for target, port in ((POSTGRES, 5432), (KAFKA, 9093)):
        assert allowed(rules, pod(workload.labels), target, port, NAMES)
