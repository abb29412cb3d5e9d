"""Brings the whole platform up on one machine, and down again."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import aiohttp

from chassis.messaging.broker import BrokerError, ensure_topics, ping
from deploy.prepare import Refused, database_url, prepare_databases
from deploy.roles import LOGINS, SERVICES, login
from deploy.stack.broker import Broker
from deploy.stack.folder import Folder, running
from deploy.stack.forking import ForkServer
from deploy.stack.kafka import Kafka, Unavailable
from deploy.stack.postgres import Postgres
from deploy.stack.processes import STACK_PORTS, Child, Say, StackError, free_port, is_free, rotate
from deploy.stack.tansu import Tansu

ADMINISTRATOR = "admin@dotmac.example"
_DEFAULT_PORTS = {
    "gateway": 8000,
    "tenant": 8101,
    "customer": 8102,
    "billing": 8103,
    "provisioning": 8104,
    "integration": 8105,
    "kafka": 9092,
    "postgres": 54329,
}
_GIVEN_SECRETS = ("SECRET_KEY", "JWT_SECRET_KEY")
_READY_SECONDS = 90
_LARGEST_LOG = 64 * 1024 * 1024
_ROTATE_SECONDS = 60


def _silent(_message: str) -> None:
    return None


@dataclass
class Stack:
    """The processes, their addresses and their secrets. The data in `folder` outlives it."""

    folder: Path
    any_ports: bool = False
    """Free ports instead of the usual ones, so that several stacks run side by side."""
    say: Say = _silent
    environment: dict[str, str] = field(default_factory=dict)
    """Settings of the services beyond those that the stack makes."""
    postgres_url: str = field(default_factory=lambda: os.environ.get("DATABASE_URL", ""))
    """A PostgreSQL server to stand on, as a user who may create roles and databases; else the stack starts its own."""
    kafka_servers: str = field(default_factory=lambda: os.environ.get("KAFKA_BOOTSTRAP_SERVERS", ""))
    """A Kafka to stand on; without one the stack starts its own."""
    kafka: str = ""
    """Where Kafka listens, once it runs."""
    address: str = field(default_factory=lambda: os.environ.get("STACK_ADDRESS", ""))
    """An address of this machine that containers reach. With it, Kafka and the tokens' public keys are there, too, and
    tenants can have containers of their own."""
    replaceable: bool = False
    """Whether services can be replaced while they run: the gateway then knows a second address of each."""
    ports: dict[str, int] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    _standby: dict[str, int] = field(default_factory=dict)
    _forks: ForkServer | None = None
    _postgres: Postgres | None = None
    _broker: Broker | None = None
    _housekeeping: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._place = Folder(self.folder)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @classmethod
    def attached(cls, folder: Path) -> Self | None:
        """Return the stack that another process runs on a folder, for its addresses, or None."""
        state = running(folder)
        if state is None:
            return None
        stack = cls(folder, kafka=state["kafka"])
        stack._server_url = state["postgres"]
        stack._secrets = stack._place.secrets(())
        return stack

    async def start(self) -> None:
        """Start all parts, each when what it needs answers; StackError if one can't."""
        await self._claim()
        await self.forks.start()  # it loads what the services need while the servers start
        await self._start_servers()
        for name in (*SERVICES, "gateway"):
            self.say(f"starting {name}")
            await self._start_child(name)
        with _first_error():
            async with asyncio.TaskGroup() as group:
                for name in self.children:
                    group.create_task(self._see_ready(name))
        self._keep_alive()
        servers = {"kafka": self.kafka, "postgres": self._server_url}
        self._place.publish({"gateway": self.gateway_url, "administrator": self.administrator, **servers})
        # Where the metrics are, as Prometheus reads it.
        targets = [f"127.0.0.1:{self.ports[name]}" for name in ("gateway", *SERVICES)]
        (self._place.path / "targets.json").write_text(json.dumps([{"targets": targets}]))

    async def start_servers(self) -> None:
        """Start PostgreSQL and Kafka alone, with the databases, roles and topics that the services need."""
        await self._claim()
        await self._start_servers()

    async def _claim(self) -> None:
        await self._place.claim(self.say)
        self._forks = ForkServer(self._place.logs / "fork-server.log", inherit=self._place.inherited)
        if (self._place.path / "secrets.json").exists():
            self.say(f"taking up the data in {self.folder}")
        self._secrets = self._place.secrets((*_GIVEN_SECRETS, "postgres", "administrator", "installation", *LOGINS))
        self._secrets |= {name: os.environ[name] for name in _GIVEN_SECRETS if os.environ.get(name)}

    async def _start_servers(self) -> None:
        self._choose_ports()
        with _first_error():
            async with asyncio.TaskGroup() as group:
                group.create_task(self._prepare_databases())
                group.create_task(self._prepare_broker())

    async def stop(self) -> None:
        """Stop what was started, the gateway first and the databases last."""
        if self.children or self._postgres or self._broker:
            self.say("stopping")
        if self._housekeeping:
            self._housekeeping.cancel()
        self._place.withdraw()
        if "gateway" in self.children:
            await self.children["gateway"].stop()
        await asyncio.gather(*(child.stop() for child in self.children.values()))
        if self._forks:
            await self._forks.stop()
        servers: list[Broker | Postgres] = [server for server in (self._broker, self._postgres) if server]
        await asyncio.gather(*(server.stop() for server in servers))
        self._place.release()

    def remove_data(self) -> None:
        """Delete the databases of a stack that is stopped, if they are its own; the folder is whoever's who gave it."""
        if self._postgres:
            self._postgres.remove()

    def url(self, name: str) -> str:
        """Return where a service, or the gateway, answers."""
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def server_url(self) -> str:
        """The address of the PostgreSQL server, as the user who may create roles and databases."""
        return self._server_url

    @property
    def gateway_url(self) -> str:
        """Where the API is."""
        return self.url("gateway")

    @property
    def forks(self) -> ForkServer:
        """What services are forked by."""
        assert self._forks is not None, "it is there once the stack starts"
        return self._forks

    @property
    def administrator(self) -> tuple[str, str]:
        """The first administrator's name and password."""
        return ADMINISTRATOR, self._secrets["administrator"]

    @property
    def summary(self) -> str:
        """Where everything is, for the person who started it."""
        name, password = self.administrator
        return f"""
The platform is ready.
  API              {self.gateway_url}/api/v1
  Documentation    {self.gateway_url}/docs
  Kafka            {self.kafka}
  Administrator    {name}
  Password         {password}
  Logs             {self.folder}/logs
"""

    @property
    def jwt_secret_key(self) -> str:
        """The secret that the signing key is derived from."""
        return self._secrets["JWT_SECRET_KEY"]

    @property
    def installation(self) -> str:
        """What tells this stack's containers from any other's."""
        return f"stack-{hashlib.sha256(self._secrets['installation'].encode()).hexdigest()[:12]}"

    def database_url(self, service: str, role: str) -> str:
        """Return the address of a service's database as one of its roles."""
        return database_url(self._server_url, service, role, self._secrets[login(service, role)])

    async def start_service(self, name: str) -> None:
        """Start a service, or the gateway, as a process of its own that is kept alive, and wait until it is ready."""
        await self._start_child(name)
        await self.wait_ready(name)
        self.children[name].keep_alive(self.say)

    async def replace_service(self, name: str) -> None:
        """Start another instance of a service beside the one that runs, and stop that one when the other is ready.

        Twice, so that it ends at the address where it was: others than the gateway know no second one.
        """
        if not self.replaceable:
            raise StackError(f"{name} can't be replaced: the gateway knows no second address of it")
        for _ in range(2):
            old = self.children.pop(name)
            self.ports[name], self._standby[name] = self._standby[name], self.ports[name]
            await self.start_service(name)
            await old.stop()

    async def wait_ready(self, name: str) -> None:
        """Return once it says that it is ready; StackError with its log if it can't be."""
        child, last = self.children[name], "no answer"
        try:
            async with asyncio.timeout(_READY_SECONDS), aiohttp.ClientSession() as session:
                while True:
                    if not child.kept_alive:
                        child.raise_if_dead()
                    try:
                        async with session.get(f"{self.url(name)}/health/ready") as answer:
                            if answer.status == 200:
                                return
                            last = await answer.text()
                    except (aiohttp.ClientError, OSError) as error:
                        last = repr(error)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise StackError(f"{name} is not ready after {_READY_SECONDS} s ({last}). {child.said()}") from None

    async def _prepare_databases(self) -> None:
        if self.postgres_url:
            self.say("using the PostgreSQL server that is given")
            self._server_url = self.postgres_url
        else:
            self.say("starting PostgreSQL")
            self._postgres = Postgres(self._place, self.ports["postgres"], self._secrets["postgres"])
            await self._postgres.start()
            self._server_url = self._postgres.url
            self.say("PostgreSQL is ready")
        try:
            await prepare_databases(self._server_url, self._secrets, say=self.say)
        except Refused as error:
            raise StackError(str(error)) from None

    async def _prepare_broker(self) -> None:
        if self.kafka_servers:
            self.say("using the Kafka that is given")
            self.kafka = self.kafka_servers
            await _let_in(self.kafka_servers)
        else:
            self.say("starting Kafka")
            self._broker = Kafka(self._place, self.ports["kafka"], self.say, self._kafka_for_containers())
            try:
                await self._broker.start()
            except Unavailable as reason:
                self.say(f"{reason}: running the small broker tansu instead of Apache Kafka (in memory only)")
                self._broker = Tansu(self._place, self.ports["kafka"])
                await self._broker.start()
            self.kafka = self._broker.bootstrap_servers
            self.say("Kafka is ready")
        await self._create_topics()

    async def _create_topics(self) -> None:
        try:
            if created := await (self._broker.create_topics() if self._broker else ensure_topics(self.kafka)):
                self.say(f"created {len(created)} topics")
        except BrokerError as error:
            raise StackError(f"the topics can't be created: {error}") from None

    async def _start_child(self, name: str) -> None:
        if name not in self.children:
            self.children[name] = Child(
                name,
                [sys.executable, "-m", f"services.{name}" if name in SERVICES else name],
                self._environment(name),
                self._place.logs / f"{name}.log",
                # A service may be killed at any moment; one that stops in order may wait for Kafka, which stops too.
                death_signal=signal.SIGKILL,
                inherit=self._place.inherited,
                forks=self.forks,
            )
        await self.children[name].start()

    async def _see_ready(self, name: str) -> None:
        await self.wait_ready(name)
        self.say(f"{name} is ready")

    def _keep_alive(self) -> None:
        """See to it that the stack stays as it is now, on long runs too."""
        for child in self.children.values():
            # What answered on its port may have been another program, which took the port first.
            child.raise_if_dead()
        for child in self.children.values():
            child.keep_alive(self.say)
        if self._postgres and self._postgres.child:
            self._postgres.child.keep_alive(self.say)
        if self._broker and self._broker.child:
            self._broker.child.keep_alive(self.say, self._broker_came_back)
        self._housekeeping = asyncio.create_task(self._rotate_logs(), name="rotate-logs")

    async def _broker_came_back(self) -> None:
        assert self._broker is not None
        await self._broker.answers()
        await self._create_topics()
        self.say("the broker is back")

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(_ROTATE_SECONDS)
            for log in self._place.logs.glob("*.log"):
                with contextlib.suppress(OSError):  # a full disk, say: the next round tries again
                    await asyncio.to_thread(rotate, log, _LARGEST_LOG)

    def _environment(self, name: str) -> dict[str, str]:
        passed = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "ROLES")}
        common = {
            **passed,
            "SECRET_KEY": self._secrets["SECRET_KEY"],
            "JWT_SECRET_KEY": self._secrets["JWT_SECRET_KEY"],
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "JWKS_URL": f"{self.url('tenant')}/.well-known/jwks.json",
            "GATEWAY_URL": self.gateway_url,
            "EXPORT_DIRECTORY": str(self._place.path / "exports"),
            "HOST": "127.0.0.1",
            "PORT": str(self.ports[name]),
            **({"KAFKA_IDEMPOTENCE": str(self._broker.idempotence).lower()} if self._broker else {}),
            **self.environment,
        }
        if name == "gateway":
            return {**common, **{f"{service.upper()}_URL": self._addresses(service) for service in SERVICES}}
        own = {
            "TRUSTED_PROXIES": "127.0.0.1",  # the gateway, which says whose a request is
            "DATABASE_URL": self.database_url(name, "api"),
            "CONSUMER_DATABASE_URL": self.database_url(name, "consumer"),
            "RELAY_DATABASE_URL": self.database_url(name, "relay"),
        }
        if name == "integration":
            own["WEBHOOK_ALLOW_LOOPBACK"] = "true"  # whoever tries it out receives on this machine
        if name == "provisioning":
            own["DEPLOYMENT_SERVER_URL"] = self.environment.get("DEPLOYMENT_SERVER_URL", self._server_url)
            for service in ("customer", "billing"):
                own[f"DEPLOYMENT_{service.upper()}_DATABASE_URL"] = self.database_url(service, "owner")
            own["DEPLOYMENT_LOG_DIRECTORY"] = str(self._place.logs)
            own |= self._containers()
        if name == "tenant":
            if self.address:
                own["HOST"] = "0.0.0.0"  # where containers are told that the public keys are
            own["BOOTSTRAP_ADMIN_EMAIL"], own["BOOTSTRAP_ADMIN_PASSWORD"] = self.administrator
        return {**common, **own}

    def _containers(self) -> dict[str, str]:
        """Return what provisioning has to know to give tenants containers of their own."""
        if not self.address:
            return {}
        kafka = self._kafka_for_containers() or self.kafka
        return {
            "DEPLOYMENT_INSTALLATION": self.installation,
            "DEPLOYMENT_KAFKA_SERVERS": self.environment.get("DEPLOYMENT_KAFKA_SERVERS", kafka),
            "DEPLOYMENT_JWKS_URL": f"http://{self.address}:{self.ports['tenant']}/.well-known/jwks.json",
        }

    def _kafka_for_containers(self) -> str | None:
        return (
            f"{self.address}:{self.ports['kafka_for_containers']}" if self.address and not self.kafka_servers else None
        )

    def _addresses(self, service: str) -> str:
        standby = [f"http://127.0.0.1:{self._standby[service]}"] if self.replaceable else []
        return ",".join([self.url(service), *standby])

    def _choose_ports(self) -> None:
        for name, default in _DEFAULT_PORTS.items():
            variable, taken = f"{name.upper()}_PORT", self.ports.values()
            given = os.environ.get(variable)
            if given:
                if not given.isdecimal() or not 0 < int(given) < 65536:
                    raise StackError(f"{variable} must be a port number; it is {given!r}")
                port = int(given)
                if port in taken or not is_free(port):
                    raise StackError(f"port {port} of {name}, given by {variable}, is taken")
            elif self.any_ports:
                port = free_port(taken)
            elif is_free(default):
                port = default
            else:
                port = free_port(taken)
                self.say(f"port {default} of {name} is taken: using {port}; {variable} sets another")
            self.ports[name] = port
        if self.address:
            self.ports["kafka_for_containers"] = free_port(self.ports.values())
        if self.replaceable:
            for name in SERVICES:
                self._standby[name] = free_port(self._standby.values(), STACK_PORTS)


@contextlib.contextmanager
def _first_error() -> Iterator[None]:
    """Raise the first of several errors that tasks ended with: it is the one that stopped the others."""
    try:
        yield
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _let_in(bootstrap_servers: str) -> None:
    """Return if Kafka answers on one of these servers; StackError with the reason otherwise."""
    reason = "no server is named"
    for server in filter(None, bootstrap_servers.split(",")):
        host, _, port = server.strip().rpartition(":")
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), 5)
            writer.close()
            await ping(bootstrap_servers)
        except (OSError, ValueError, TimeoutError, BrokerError) as error:
            reason = str(error) or type(error).__name__
        else:
            return
    raise StackError(f"no Kafka answers on {bootstrap_servers}: {reason}")


@contextlib.asynccontextmanager
async def temporary(name: str, make: Callable[[Path], Stack]) -> AsyncIterator[Stack]:
    """Run a stack in a folder of its own, and leave nothing of it behind; `name` is what for."""
    with tempfile.TemporaryDirectory(prefix=f"dotmac-{name}-") as folder:
        stack = make(Path(folder))
        try:
            async with stack:
                yield stack
        finally:
            stack.remove_data()


async def until_cancelled(work: Callable[[], Awaitable[None]]) -> bool:
    """Run, and let the first Ctrl-C, SIGTERM or hang-up end it in order, a second one at once.

    Return whether it came to its own end.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work())
    names = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        names.append(signal.SIGHUP)

    def end() -> None:
        for name in names:
            loop.remove_signal_handler(name)
        task.cancel()

    for name in names:
        loop.add_signal_handler(name, end)
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True
