"""The container image, run as `deploy/compose.yaml` runs it: without rights, on a file system that can only be read."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from docker import DockerClient
from docker.errors import ImageNotFound
from docker.models.containers import Container
from testcontainers.core.docker_client import DockerClient as Engine

from deploy.roles import SERVICES
from tests import servers

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("DOTMAC_IMAGE") or "localhost/dotmac-platform:dev"
LABELS = {"org.testcontainers": "true"}


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    output: str
    errors: str


Run = Callable[..., Ended]


def missing(reason: str) -> None:
    """Skip; fail where containers were asked for."""
    if servers.wanted() == "testcontainers":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def engine() -> DockerClient:
    if reason := servers.why_no_engine():
        missing(reason)
    client = Engine().client
    try:
        client.images.get(IMAGE)
    except ImageNotFound:
        missing(f"there is no image {IMAGE}: make image")
    return client


@pytest.fixture(scope="module")
def container(engine: DockerClient) -> Iterator[Container]:
    """One that waits for commands, with no more rights than in compose."""
    started = engine.containers.run(
        IMAGE,
        ["python", "-c", "import signal; signal.pause()"],
        detach=True,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        tmpfs={"/tmp": ""},
        network_mode="none",
        labels=LABELS,
    )
    try:
        yield started
    finally:
        started.remove(force=True)


@pytest.fixture(scope="module")
def run(container: Container) -> Run:
    def run(*command: str, **environment: str) -> Ended:
        status, (output, errors) = container.exec_run(list(command), environment=environment, demux=True)
        return Ended(status, (output or b"").decode(), (errors or b"").decode())

    return run


def test_it_runs_as_a_number_that_is_not_root_without_capabilities(engine: DockerClient, run: Run) -> None:
    config: dict[str, Any] = engine.images.get(IMAGE).attrs["Config"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"])
    status = dict(line.split(":\t") for line in run("cat", "/proc/self/status").output.splitlines() if ":\t" in line)
    assert status["Uid"].split() == [config["User"].split(":")[0]] * 4
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


def test_no_file_of_the_platform_can_be_changed_by_it(run: Run) -> None:
    assert run("find", "/srv", "/opt", "-not", "-type", "l", "-writable") == (0, "", "")


def test_what_is_mounted_for_exports_can_be_written_by_it_and_read_by_nobody_else(engine: DockerClient) -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    folder = compose["services"]["customer-worker"]["environment"]["EXPORT_DIRECTORY"]
    volume = engine.volumes.create(labels=LABELS)
    program = f"import os; open('{folder}/x', 'w').close(); print(oct(os.stat('{folder}').st_mode & 0o777))"
    try:
        output = engine.containers.run(
            IMAGE,
            ["python", "-c", program],
            remove=True,
            read_only=True,
            cap_drop=["ALL"],
            network_mode="none",
            labels=LABELS,
            volumes={volume.name: {"bind": folder, "mode": "rw"}},
        )
    finally:
        volume.remove()
    assert output.decode().strip() == "0o700"


def test_it_holds_the_runtime_pins_and_nothing_else(run: Run) -> None:
    program = (
        "import importlib.metadata, json;"
        "print(json.dumps({d.name.lower().replace('_', '-'): d.version for d in importlib.metadata.distributions()}))"
    )
    installed = json.loads(run("python", "-c", program).output)
    text = (ROOT / "requirements.runtime.lock").read_text()
    pinned: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE):
        pinned.setdefault(name.lower().replace("_", "-"), set()).add(version)
    assert {name for name, version in installed.items() if version not in pinned.get(name, ())} == set()
    # Pins for other systems stay away.
    assert pinned.keys() - installed.keys() <= {"colorama", "tzdata"}


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_there_with_its_migrations(run: Run, service: str) -> None:
    program = (
        f"import services.{service}.app; from chassis.persistence.migrations import versions_of;"
        f"print(versions_of('{service}').get_current_head())"
    )
    head = run("python", "-c", program).output.strip()
    versions = ROOT / "services" / service / "migrations" / "versions"
    assert list(versions.glob(f"{head.split('_')[0]}*.py"))


def test_the_gateway_serves_the_events_documentation_from_it(run: Run) -> None:
    program = "import gateway.documentation as d; print(d._ASYNCAPI.read_text()[:15])"
    assert run("python", "-c", program).output.startswith("asyncapi: 3.")


def test_the_command_line_works_in_it(run: Run) -> None:
    assert "replay" in run("python", "-m", "cli", "dead-letters", "--help").output


def test_a_service_without_its_secrets_does_not_start_and_names_them(run: Run) -> None:
    ended = run("python", "-m", "services.customer", ENVIRONMENT="production")
    assert ended.status == 1
    assert "SECRET_KEY must be set outside development" in ended.errors


def test_the_preparation_without_its_passwords_names_them(run: Run) -> None:
    ended = run("python", "-m", "deploy.prepare", DATABASE_URL="postgresql://nobody@nowhere/x")
    assert ended.status == 1
    assert "KAFKA_BOOTSTRAP_SERVERS, TENANT_OWNER_PASSWORD" in ended.errors


def test_its_health_check_fails_where_nothing_answers(container: Container, run: Run) -> None:
    kind, *check = container.attrs["Config"]["Healthcheck"]["Test"]
    assert kind == "CMD"
    ended = run(*check)
    assert ended.status == 1
    assert "no answer" in ended.errors
