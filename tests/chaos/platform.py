"""The platform as the chaos suite runs it: every role of every service a process of its own, which can be made to
crash at a named point, and proxies before both servers, which can cut and slow them."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from deploy.roles import SERVICES
from deploy.stack.folder import Folder
from deploy.stack.kafka import Kafka
from deploy.stack.postgres import Postgres
from deploy.stack.processes import Child, Say, free_port
from deploy.stack.stack import Stack
from tests.api import Api
from tests.chaos.load import Isp, Load
from tests.chaos.proxy import Proxy, proxy
from tests.conftest import deploy, lasting, sign_in

ROLES = ("api", "consumer", "relay")
_ROOT = Path(__file__).parents[2]


class AdvertisedKafka(Kafka):
    """Apache Kafka whose clients are told to come to another port than its own: a proxy's."""

    def __init__(self, folder: Folder, port: int, advertised: int, say: Say) -> None:
        super().__init__(folder, port, say)
        self._advertised = advertised

    def properties(self, controller: int, data: Path) -> str:
        # Of two lines for one property the last one counts.
        own = super().properties(controller, data)
        return f"{own}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{self._advertised}\n"


def process_of(service: str, role: str) -> str:
    """Return the name of the process in which a service takes a role."""
    return service if role == "api" else f"{service}-{role}"


PROCESSES = tuple(process_of(service, role) for service in SERVICES for role in ROLES)


@dataclass
class Platform:
    """The running parts."""

    folder: Path
    say: Say
    stack: Stack
    kafka: AdvertisedKafka
    postgres: Postgres
    kafka_line: Proxy
    postgres_line: Proxy
    companions: int = 0

    @property
    def databases(self) -> dict[str, str]:
        """The address of each service's database, past the proxy, as the superuser."""
        return {name: self.postgres.url.removesuffix("/postgres") + f"/dotmac_{name}" for name in SERVICES}

    @property
    def bootstrap_servers(self) -> str:
        """Where Kafka is: behind its proxy, which it tells its clients to come to."""
        return self.stack.kafka

    async def start(self, name: str, service: str, role: str, **environment: str) -> Child:
        """Start a process that takes one role of a service; see that it is ready by `ready`."""
        port = self.stack.ports[service] if role == "api" else free_port(self.stack.ports.values())
        self.stack.ports[name] = port
        child = self.stack.children[name] = Child(
            name,
            [sys.executable, "-m", "tests.chaos.instrumented", service],
            {
                **self.stack._environment(service),
                "ROLES": role,
                "PORT": str(port),
                "CRASH_FILE": str(self.crash_file(name)),
                **environment,
            },
            self.folder / f"{name}.log",
            death_signal=signal.SIGKILL,
            folder=_ROOT,
            forks=self.stack.forks,
        )
        await child.start()
        return child

    def crash_file(self, name: str) -> Path:
        """Where a process looks for the point at which it is to crash."""
        return self.folder / f"{name}.crash"

    async def crash(self, name: str, point: str, passage: int, seconds: float) -> bool:
        """Have a process kill itself at a passage of a point; False if it does not come there in time."""
        file = self.crash_file(name)
        part = file.with_suffix(".part")
        part.write_text(json.dumps({"point": point, "passage": passage, "mark": secrets.token_hex(4)}))
        part.replace(file)
        first = self.stack.children[name].pid
        try:
            async with asyncio.timeout(seconds):
                while file.exists() or self.stack.children[name].pid == first:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            file.unlink(missing_ok=True)
            return False
        return True

    async def ready(self) -> None:
        """Return once every process said that it is ready; StackError with its log if one does not."""
        await asyncio.gather(*(self.stack.wait_ready(name) for name in self.stack.children))

    @contextlib.asynccontextmanager
    async def companion(self, service: str, role: str, **environment: str) -> AsyncIterator[Child]:
        """Run one more process of a service's role, beside the one that there is."""
        self.companions += 1
        name = f"{process_of(service, role)}-{self.companions}"
        child = await self.start(name, service, role, **environment)
        try:
            await self.stack.wait_ready(name)
            yield child
        finally:
            await child.stop()
            del self.stack.children[name], self.stack.ports[name]

    async def start_kafka(self) -> None:
        """Start Kafka again after it was stopped."""
        await self.kafka.start()
        assert self.kafka.child
        self.kafka.child.keep_alive(self.say)

    def signal_postgres(self, number: int) -> None:
        """Send a signal to the server, which is started again when it ends."""
        assert self.postgres.child and self.postgres.child.pid
        os.kill(self.postgres.child.pid, number)

    async def load(self, http: aiohttp.ClientSession, isps: int) -> Load:
        """Deploy so many tenants and return clients who work for them."""
        public = Api(self.stack.gateway_url, http, None, set(), {})
        platform = lasting(self.stack, public.as_(await sign_in(public, *self.stack.administrator)))
        deployed = [await deploy(public, platform) for _ in range(isps)]
        return Load(platform, [Isp(replace(tenant, api=lasting(self.stack, tenant.api))) for tenant in deployed])


@contextlib.asynccontextmanager
async def running(folder: Path, say: Say) -> AsyncIterator[Platform]:
    """Run a platform of its own; Unavailable where Apache Kafka can't run."""
    place = Folder(folder / "servers")
    await place.claim(say)
    ports: list[int] = []
    for _ in range(4):
        ports.append(free_port(ports))
    kafka = AdvertisedKafka(place, ports[0], ports[1], say)
    postgres = Postgres(place, ports[2], place.secrets(["postgres"])["postgres"])
    try:
        async with proxy(ports[1], ports[0]) as kafka_line, proxy(ports[3], ports[2]) as postgres_line:
            say("starting the servers")
            await asyncio.gather(kafka.start(), postgres.start())
            assert kafka.child and postgres.child
            stack = Stack(
                folder / "stack",
                any_ports=True,
                say=say,
                postgres_url=postgres.url.replace(f":{ports[2]}/", f":{ports[3]}/"),
                kafka_servers=f"127.0.0.1:{ports[1]}",
            )
            platform = Platform(folder, say, stack, kafka, postgres, kafka_line, postgres_line)
            try:
                await stack.start_servers()
                say("starting the services")
                for service in SERVICES:
                    for role in ROLES:
                        await platform.start(process_of(service, role), service, role)
                await stack.start_service("gateway")
                await platform.ready()
                for child in (kafka.child, postgres.child, *stack.children.values()):
                    child.keep_alive(say)
                yield platform
            finally:
                await stack.stop()
    finally:
        await asyncio.gather(kafka.stop(), postgres.stop())
        postgres.remove()
        place.release()
