"""Brings the whole platform up on one machine, and down again."""

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import asyncpg

from chassis.messaging.broker import ensure_topics
from chassis.persistence.migrations import upgrade
from deploy.stack.kafka import Kafka
from deploy.stack.postgres import Postgres
from deploy.stack.processes import Child, StackError, free_port

SERVICES = ("tenant", "customer", "billing", "provisioning")
ROLES = ("owner", "api", "consumer", "relay")
ADMINISTRATOR = "admin@dotmac.example"
_DEFAULT_PORTS = {
    "gateway": 8000,
    "tenant": 8101,
    "customer": 8102,
    "billing": 8103,
    "provisioning": 8104,
    "kafka": 9092,
    "postgres": 54329,
}
_READY_SECONDS = 90
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dotmac"


def _silent(_message: str) -> None:
    return None


@dataclass
class Stack:
    """The processes, their addresses and their secrets. The data in `folder` outlives it."""

    folder: Path
    any_ports: bool = False
    """Free ports instead of the usual ones, so that several stacks run side by side."""
    say: Callable[[str], None] = _silent
    environment: dict[str, str] = field(default_factory=dict)
    """Settings of the services beyond those that the stack makes."""
    kafka: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    _postgres: Postgres | None = None
    _kafka: Kafka | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start all parts in order, each when what it needs answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        (self.folder / "logs").mkdir(exist_ok=True)
        self._secrets = self._keep_secrets()
        self.ports = {name: self._port(name) for name in _DEFAULT_PORTS}
        await asyncio.gather(self._start_postgres(), self._start_kafka())
        self.say("creating topics, databases and roles")
        await ensure_topics(self.kafka)
        for service in SERVICES:
            await self._create_database(service)
        self.say("running the migrations")
        for service in SERVICES:
            await upgrade(service, self.database_url(service, "owner"))
        for service in SERVICES:
            self.say(f"starting {service}")
            await self.start_service(service, wait=False)
        self.say("starting gateway")
        await self.start_service("gateway", wait=False)
        for name in (*SERVICES, "gateway"):
            await self.wait_ready(name)
            self.say(f"{name} is ready")
        self._write_state()

    async def stop(self) -> None:
        """Stop what was started, the gateway first and the databases last."""
        (self.folder / "state.json").unlink(missing_ok=True)
        if "gateway" in self.children:
            await self.children["gateway"].stop()
        await asyncio.gather(*(child.stop() for child in self.children.values()))
        servers: list[Kafka | Postgres] = [server for server in (self._kafka, self._postgres) if server]
        await asyncio.gather(*(server.stop() for server in servers))

    def url(self, name: str) -> str:
        """Return where a service, or the gateway, answers."""
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def gateway_url(self) -> str:
        """Where the API is."""
        return self.url("gateway")

    @property
    def administrator(self) -> tuple[str, str]:
        """The first administrator's name and password."""
        return ADMINISTRATOR, self._secrets["administrator"]

    @property
    def jwt_secret_key(self) -> str:
        """The secret that the signing key is derived from."""
        return self._secrets["JWT_SECRET_KEY"]

    def database_url(self, service: str, role: str) -> str:
        """Return the address of a service's database as one of its roles."""
        server = urlsplit(self._server_url)
        place = f"{server.hostname}:{server.port or 5432}"
        login = f"{service}_{role}:{self._secrets[f'{service}_{role}']}"
        return urlunsplit(("postgresql", f"{login}@{place}", f"/dotmac_{service}", server.query, ""))

    async def start_service(self, name: str, *, wait: bool = True) -> None:
        """Start a service, or the gateway, as a process of its own that is kept alive."""
        module = "gateway" if name == "gateway" else f"services.{name}"
        if name not in self.children:
            self.children[name] = Child(
                name,
                [sys.executable, "-m", module],
                self._environment(name),
                self.folder / "logs" / f"{name}.log",
                keep_alive=True,
            )
        await self.children[name].start()
        if wait:
            await self.wait_ready(name)

    async def wait_ready(self, name: str) -> None:
        """Return once it says that it is ready; StackError with its log if it can't be."""
        last = "no answer"
        try:
            async with asyncio.timeout(_READY_SECONDS), aiohttp.ClientSession() as session:
                while True:
                    try:
                        async with session.get(f"{self.url(name)}/health/ready") as answer:
                            if answer.status == 200:
                                return
                            last = await answer.text()
                    except (aiohttp.ClientError, OSError) as error:
                        last = repr(error)
                        if not (self.folder / "state.json").exists():  # at first start a dead child stays dead
                            self.children[name].raise_if_dead()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            log = self.children[name].log
            raise StackError(f"{name} is not ready after {_READY_SECONDS} s ({last}); see {log}") from None

    async def _start_postgres(self) -> None:
        given = os.environ.get("DATABASE_URL")
        if given:
            self._server_url = given
            self.say("using the PostgreSQL server of DATABASE_URL")
            return
        self.say("starting PostgreSQL")
        log = self.folder / "logs" / "postgres.log"
        password = self._secrets["postgres"]
        self._postgres = Postgres(self.folder.resolve() / "postgres", self.ports["postgres"], password, log)
        await self._postgres.start()
        self._server_url = self._postgres.url
        self.say("PostgreSQL is ready")

    async def _start_kafka(self) -> None:
        given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        if given:
            self.kafka = given
            self.say("using the Kafka of KAFKA_BOOTSTRAP_SERVERS")
            return
        self.say("starting Kafka (the first time Maven fetches it)")
        log = self.folder / "logs" / "kafka.log"
        folder = self.folder.resolve() / "kafka"
        self._kafka = Kafka(folder, _CACHE, self.ports["kafka"], log, self.say)
        await self._kafka.start()
        self.kafka = self._kafka.bootstrap_servers
        self.say("Kafka is ready")

    async def _create_database(self, service: str) -> None:
        """Create a service's roles and its database, or set their passwords anew."""
        connection = await asyncpg.connect(self._server_url)
        try:
            existing = {row["rolname"] for row in await connection.fetch("select rolname from pg_roles")}
            for role in ROLES:
                name, password = f"{service}_{role}", self._secrets[f"{service}_{role}"]
                verb = "alter" if name in existing else "create"
                await connection.execute(
                    f"{verb} role {name} login nosuperuser nobypassrls nocreatedb password '{password}'"
                )
            database = f"dotmac_{service}"
            if not await connection.fetchval("select 1 from pg_database where datname = $1", database):
                await connection.execute(f"create database {database} owner {service}_owner")
            await connection.execute(f"revoke all on database {database} from public")
            members = ", ".join(f"{service}_{role}" for role in ROLES)
            await connection.execute(f"grant connect on database {database} to {members}")
        finally:
            await connection.close()

    def _environment(self, name: str) -> dict[str, str]:
        passed = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "ROLES")}
        common = {
            **passed,
            "SECRET_KEY": self._secrets["SECRET_KEY"],
            "JWT_SECRET_KEY": self._secrets["JWT_SECRET_KEY"],
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "KAFKA_IDEMPOTENCE": str(self._kafka.idempotence if self._kafka else True).lower(),
            "JWKS_URL": f"{self.url('tenant')}/.well-known/jwks.json",
            "GATEWAY_URL": self.gateway_url,
            "HOST": "127.0.0.1",
            "PORT": str(self.ports[name]),
            **self.environment,
        }
        if name == "gateway":
            return {**common, **{f"{service.upper()}_URL": self.url(service) for service in SERVICES}}
        own = {
            "DATABASE_URL": self.database_url(name, "api"),
            "CONSUMER_DATABASE_URL": self.database_url(name, "consumer"),
            "RELAY_DATABASE_URL": self.database_url(name, "relay"),
        }
        if name == "tenant":
            own["BOOTSTRAP_ADMIN_EMAIL"], own["BOOTSTRAP_ADMIN_PASSWORD"] = self.administrator
        return {**common, **own}

    def _port(self, name: str) -> int:
        given = os.environ.get(f"{name.upper()}_PORT")
        if given:
            return int(given)
        default = _DEFAULT_PORTS[name]
        if self.any_ports:
            return free_port()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", default))
            except OSError:
                port = free_port()
                self.say(f"port {default} of {name} is taken: using {port}; {name.upper()}_PORT sets another")
                return port
        return default

    def _keep_secrets(self) -> dict[str, str]:
        file = self.folder / "secrets.json"
        kept: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        names = ["SECRET_KEY", "JWT_SECRET_KEY", "postgres", "administrator"]
        names += [f"{service}_{role}" for service in SERVICES for role in ROLES]
        for name in names:
            kept.setdefault(name, secrets.token_urlsafe(36))
        file.touch(mode=0o600)
        file.write_text(json.dumps(kept, indent=1))
        return kept

    def _write_state(self) -> None:
        file = self.folder / "state.json"
        file.touch(mode=0o600)
        pids = {name: child.pid for name, child in self.children.items()}
        state: dict[str, Any] = {
            "pid": os.getpid(),
            "gateway": self.gateway_url,
            "kafka": self.kafka,
            "administrator": self.administrator,
            "pids": pids,
        }
        file.write_text(json.dumps(state, indent=1))


def running(folder: Path) -> dict[str, Any] | None:
    """Return the state of the stack that runs on `folder`, or None."""
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text())
        os.kill(state["pid"], 0)
    except (OSError, ValueError, KeyError):
        return None
    return state


async def until_cancelled(work: Callable[[], Awaitable[None]]) -> None:
    """Run, and let Ctrl-C and SIGTERM end it in order."""
    task = asyncio.ensure_future(work())
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return
