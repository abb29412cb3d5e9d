"""The platform in containers, by Docker Compose: `python -m deploy.compose up` and `down`.

Needs nothing but Python's standard library and a `docker compose`; `COMPOSE` names another command than that.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from deploy.roles import LOGINS, SERVICES, password_variable

_FOLDER = Path(__file__).parent
_FILE = _FOLDER / "compose.yaml"
_SECRETS = _FOLDER / ".env"
_READY_SECONDS = 90.0


class Addresses(NamedTuple):
    """Where the platform is reached from this machine, and as whom."""

    gateway: str
    kafka: str
    administrator: tuple[str, str]


def settings() -> dict[str, str]:
    """Return what `deploy/.env` and, before it, the environment say; empty before the first `up`."""
    if not _SECRETS.exists():
        return {}
    lines = (line for line in _SECRETS.read_text().splitlines() if "=" in line and not line.startswith("#"))
    kept = dict(line.split("=", 1) for line in lines)
    return {name: os.environ.get(name) or value for name, value in kept.items()}


def running() -> Addresses | None:
    """Return where the platform answers, or None where it isn't up and ready."""
    known = settings()
    if not known:
        return None
    addresses = _addresses(known)
    return addresses if _ready(addresses.gateway) else None


def _addresses(known: Mapping[str, str]) -> Addresses:
    administrator = (known["BOOTSTRAP_ADMIN_EMAIL"], known["BOOTSTRAP_ADMIN_PASSWORD"])
    return Addresses(f"http://127.0.0.1:{known['GATEWAY_PORT']}", f"127.0.0.1:{known['KAFKA_PORT']}", administrator)


def _ready(gateway: str) -> bool:
    try:
        with urllib.request.urlopen(f"{gateway}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def keep_secrets() -> None:
    """Make `deploy/.env` with what it lacks, for its owner's eyes only; what it says already stays."""
    wanted = {
        "COMPOSE_PROJECT_NAME": "dotmac",
        "GATEWAY_PORT": "8000",
        "KAFKA_PORT": "9092",
        "BOOTSTRAP_ADMIN_EMAIL": "admin@dotmac.example",
    }
    names = ["BOOTSTRAP_ADMIN_PASSWORD", "POSTGRES_PASSWORD", "GRAFANA_PASSWORD", "JWT_SECRET_KEY"]
    names += [f"{service.upper()}_SECRET_KEY" for service in SERVICES]
    names += [password_variable(name) for name in LOGINS]
    kept = settings()
    lines = [f"{name}={value}" for name, value in wanted.items() if name not in kept]
    lines += [f"{name}={secrets.token_urlsafe(36)}" for name in names if name not in kept]
    _SECRETS.touch(mode=0o600)
    with _SECRETS.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def _compose(*arguments: str) -> None:
    command = os.environ.get("COMPOSE", "").split() or _installed()
    done = subprocess.run([*command, "--file", str(_FILE), *arguments], check=False)
    if done.returncode:
        sys.exit(f"`{' '.join([*command, *arguments])}` ended with status {done.returncode}")


def _installed() -> list[str]:
    if shutil.which("docker"):
        plugin = ["docker", "compose"]
        if subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode == 0:
            return plugin
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    sys.exit("There is no Docker Compose here: install it, or name a command in COMPOSE")


def up() -> None:
    """Bring everything up, wait until it is ready, and say where it is."""
    keep_secrets()
    _compose("up", "--detach", "--remove-orphans")
    addresses = _addresses(settings())
    deadline = time.monotonic() + _READY_SECONDS
    while not _ready(addresses.gateway):
        if time.monotonic() > deadline:
            _compose("ps")
            sys.exit(f"{addresses.gateway} is not ready after {_READY_SECONDS:.0f} s")
        time.sleep(0.5)
    print(  # noqa: T201
        f"""
The platform is ready.
  API              {addresses.gateway}/api/v1
  Documentation    {addresses.gateway}/docs
  Kafka            {addresses.kafka}
  Administrator    {addresses.administrator[0]}
  Password         BOOTSTRAP_ADMIN_PASSWORD in {_SECRETS}

Next: `make demo`. `make down` stops it; the data stays, unless told VOLUMES=1."""
    )


def main() -> None:
    match sys.argv[1:]:
        case ["up"]:
            up()
        case ["down", *options] if set(options) <= {"--volumes"}:
            keep_secrets()
            _compose("--profile", "observability", "down", "--remove-orphans", *options)
        case _:
            sys.exit("usage: python -m deploy.compose up | down [--volumes]")


if __name__ == "__main__":
    main()
