"""The local stack as its user meets it: `python -m deploy.stack` and `dotmac demo` as processes of their own."""

import asyncio
import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer

from chassis.messaging.broker import BrokerError, ping
from cli.client import ApiError, Client
from cli.generator import generate
from deploy.roles import SERVICES
from deploy.stack.folder import Folder, running
from deploy.stack.kafka import Kafka, Unavailable
from deploy.stack.postgres import Postgres
from deploy.stack.processes import Child, StackError, free_port, is_free, rotate
from dotmac_contracts.topics import TENANT
from tests.api import eventually
from tests.conftest import registration

pytestmark = pytest.mark.timeout(300)

_PORTS = ("GATEWAY", "TENANT", "CUSTOMER", "BILLING", "PROVISIONING", "KAFKA", "POSTGRES")
# What would change a stack, if whoever runs the tests has set it.
_SETTINGS = {"DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "SECRET_KEY", "JWT_SECRET_KEY", "ENVIRONMENT", "GATEWAY_URL"}
_START_SECONDS = 150  # on a machine that is busy with others' work
_TENANTS_IN_ALL_PARTITIONS = 10
_NOBODY = 65534


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without what would change a stack, with a free port for each of its parts."""
    inherited = {name: value for name, value in os.environ.items() if name not in _SETTINGS and "_PORT" not in name}
    ports: list[int] = []
    for _ in _PORTS:
        ports.append(free_port(ports))
    return {**inherited, **{f"{name}_PORT": str(port) for name, port in zip(_PORTS, ports, strict=True)}, **changes}


def tree(root: int) -> set[int]:
    """Return the process ids of a process and all that it started, directly or not."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    """Return those of the processes that still run; a dead one that nobody waited for doesn't."""
    still = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                still.add(pid)
    return still


def known_of(pid: int, what: str) -> str:
    """Return a file about a process; nothing once it has ended, as PostgreSQL's workers do at any moment."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{what}").read_text()
    return ""


def program(pid: int) -> str:
    return known_of(pid, "comm").strip()


def users(pids: set[int]) -> set[int]:
    """Return as whom processes run."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.add(Path(f"/proc/{pid}").stat().st_uid)
    return found


class Started:
    """A command that runs a stack in a folder of its own, as a shell starts it: the leader of a process group."""

    def __init__(self, folder: Path, *command: str, env: dict[str, str]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.env = env
        self._output = folder / "output.txt"
        self._command = command or (sys.executable, "-m", "deploy.stack")

    async def __aenter__(self) -> "Started":
        with self._output.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=self.folder,
                env=self.env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    @property
    def output(self) -> str:
        return self._output.read_text()

    async def says(self, text: str, seconds: float = _START_SECONDS) -> None:
        """Return once it printed the text; fail if it ended, or did not in time."""

        async def said() -> bool:
            if text in self.output:
                return True
            assert self.process.returncode is None, self.output
            return False

        try:
            await eventually(said, seconds)
        except AssertionError:
            raise AssertionError(f"{text!r} was not said: {self.output}") from None

    async def ends(self, *, with_signal: int | None = None, to_group: bool = False) -> int:
        """Send a signal, if one is given, and return the exit status."""
        if with_signal and to_group:
            os.killpg(self.process.pid, with_signal)
        elif with_signal:
            self.process.send_signal(with_signal)
        return await asyncio.wait_for(self.process.wait(), _START_SECONDS)

    def told(self, name: str) -> str:
        """Return what the summary says, as in `Password   …`."""
        found = re.search(rf"^  {name} +(\S+)$", self.output, re.MULTILINE)
        assert found, self.output
        return found[1]

    @property
    def client(self) -> Client:
        gateway = self.told("API").removesuffix("/api/v1")
        return Client(gateway, self.told("Administrator"), self.told("Password"))

    @property
    def ports(self) -> list[int]:
        return [int(self.env[f"{name}_PORT"]) for name in _PORTS if f"{name}_PORT" in self.env]

    def log(self, name: str) -> str:
        return (self.folder / ".stack" / "logs" / f"{name}.log").read_text()


async def refused(folder: Path, *command: str, **changes: str) -> str:
    """Run a stack that must not start, and return what it said."""
    async with Started(folder, *command, env=environment(**changes)) as started:
        pids: set[int] = set()

        async def ended() -> bool:
            pids.update(tree(started.process.pid))
            return started.process.returncode is not None

        await eventually(ended, _START_SECONDS)
        assert started.process.returncode == 1, started.output
        assert "Traceback" not in started.output.partition("The end of")[0]
        assert alive(pids) == set()
    return started.output


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A place for stacks, whose databases are removed from wherever root's stack put them."""
    yield tmp_path
    for link in tmp_path.rglob("postgres"):
        if link.is_symlink():
            shutil.rmtree(link.resolve(), ignore_errors=True)


@pytest.fixture(scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, str]]:
    """A PostgreSQL and a Kafka that no stack started: their addresses."""
    place = Folder(tmp_path_factory.mktemp("servers"))
    await place.claim(print)
    ports = [one := free_port(), free_port({one})]
    postgres, kafka = Postgres(place, ports[0], "the superuser's"), Kafka(place, ports[1], print)
    try:
        await asyncio.gather(postgres.start(), kafka.start())
        yield postgres.url, kafka.bootstrap_servers
    finally:
        await asyncio.gather(postgres.stop(), kafka.stop())
        postgres.remove()
        place.release()


async def test_a_stack_starts_comes_back_from_crashes_and_stops_without_a_trace(folder: Path) -> None:
    env = environment()
    del env["GATEWAY_PORT"]
    with socket.socket() as other:  # somebody has the usual port, we or another
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            other.bind(("127.0.0.1", 8000))
            other.listen()
        async with Started(folder, env=env) as first:
            await first.says("Ctrl-C stops everything")
            pids = tree(first.process.pid)
            _says_what_it_does(first)
            _hides_its_secrets(first, pids)
            async with first.client as platform:
                tenant = await platform.post("/tenants", registration())
            await _is_the_only_one_on_its_folder(first)
            await _restarts_its_servers(first)
            pids |= tree(first.process.pid)
            kafka = await _die_badly(first)
    with _another_with_its_process_id(first):
        await _is_taken_up(first, kafka, pids, tenant)


async def _is_taken_up(first: Started, kafka: int, pids: set[int], tenant: dict[str, Any]) -> None:
    async with Started(first.folder, env=first.env) as second:
        try:
            await second.says("waiting for the processes of a stack that was killed")
            assert alive(pids) == {kafka}
        finally:
            os.kill(kafka, signal.SIGCONT)
        await second.says("Ctrl-C stops everything")
        assert alive(pids) == set()
        assert "taking up the data in .stack" in second.output
        assert second.told("Password") == first.told("Password")
        async with second.client as platform:
            assert (await platform.get(f"/tenants/{tenant['id']}"))["slug"] == tenant["slug"]
        await _kept_event_of(second.told("Kafka"), tenant["id"])
        pids = tree(second.process.pid)
        assert {"java", "postgres"} <= {program(pid) for pid in pids}
        assert await second.ends(with_signal=signal.SIGINT, to_group=True) == 0
        assert alive(pids) == set()
        assert [port for port in second.ports if not is_free(port)] == []
        assert running(first.folder / ".stack") is None


def _says_what_it_does(stack: Started) -> None:
    for progress in ("starting PostgreSQL", "starting Kafka", "running the migrations", "billing is ready"):
        assert re.search(rf"^ *\d+\.\d s  {progress}", stack.output, re.MULTILINE)
    moved = re.search(r"port 8000 of gateway is taken: using (\d+); GATEWAY_PORT sets another", stack.output)
    assert moved
    assert stack.told("API") == f"http://127.0.0.1:{moved[1]}/api/v1"
    assert stack.told("Documentation") == f"http://127.0.0.1:{moved[1]}/docs"
    assert stack.told("Kafka") == f"127.0.0.1:{stack.env['KAFKA_PORT']}"
    assert [port for port in stack.ports if is_free(port)] == []


def _hides_its_secrets(stack: Started, pids: set[int]) -> None:
    kept = json.loads((stack.folder / ".stack" / "secrets.json").read_text())
    assert kept["administrator"] == stack.told("Password")
    arguments = "\n".join(known_of(pid, "cmdline") for pid in alive(pids))
    logs = "\n".join(file.read_text() for file in (stack.folder / ".stack" / "logs").iterdir())
    assert "deploy.stack" in arguments
    assert '"event"' in logs
    assert [name for name, secret in kept.items() if secret in arguments or secret in logs] == []
    for file in ("secrets.json", "state.json"):
        assert (stack.folder / ".stack" / file).stat().st_mode & 0o077 == 0


async def _is_the_only_one_on_its_folder(stack: Started) -> None:
    output = stack.output
    again = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.stack"), cwd=stack.folder, env=environment(), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await again.communicate()
    assert again.returncode == 1
    assert "a stack already runs, or starts, on" in errors.decode()
    state = running(stack.folder / ".stack")
    assert state is not None and state["pid"] == stack.process.pid
    assert stack.output == output
    await ping(stack.told("Kafka"))


async def _restarts_its_servers(stack: Started) -> None:
    for pid in _servers(stack):
        os.kill(pid, signal.SIGKILL)
    for name in ("kafka", "postgres"):
        await stack.says(f"{name} ended with status -9: starting it again")

    async def ready() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as http, http.get(_health(stack)) as answer:
                return answer.status == 200
        return False

    await eventually(lambda: _both_answer(stack), _START_SECONDS)
    await eventually(ready, _START_SECONDS)


async def _both_answer(stack: Started) -> bool:
    if any(is_free(int(stack.env[f"{name}_PORT"])) for name in ("KAFKA", "POSTGRES")):
        return False
    with contextlib.suppress(BrokerError):
        await ping(stack.told("Kafka"))
        return True
    return False


def _health(stack: Started) -> str:
    return stack.told("Documentation").removesuffix("/docs") + "/health/ready"


def _servers(stack: Started) -> list[int]:
    """Return the process ids of its Kafka and of its PostgreSQL's first process."""
    children = {pid for pid in tree(stack.process.pid) if _parent(pid) == stack.process.pid}
    by_program = {program(pid): pid for pid in children}
    return [by_program["java"], by_program["postgres"]]


def _parent(pid: int) -> int:
    stat = known_of(pid, "stat")
    return int(stat.rpartition(")")[2].split()[1]) if stat else 0


async def _die_badly(stack: Started) -> int:
    """Kill the stack so that each thing which can be stale is: return the process id of Kafka, which hangs."""
    kafka, postgres = _servers(stack)
    data = (stack.folder / ".stack" / "postgres").resolve() / "data"
    os.kill(stack.process.pid, signal.SIGSTOP)  # lest it starts them again
    os.kill(postgres, signal.SIGKILL)
    os.kill(kafka, signal.SIGSTOP)
    pids = tree(stack.process.pid)
    os.kill(stack.process.pid, signal.SIGKILL)
    await stack.process.wait()

    async def others_ended() -> bool:
        return alive(pids) == {kafka}

    await eventually(others_ended, 30)
    assert (stack.folder / ".stack" / "state.json").exists()
    assert (data / "postmaster.pid").read_text().startswith(f"{postgres}\n")
    assert (stack.folder / ".stack" / "kafka" / "data" / ".lock").exists()
    return kafka


@contextlib.contextmanager
def _another_with_its_process_id(stack: Started) -> Iterator[None]:
    """The system gives a dead server's process id to any program, and here to one of the same user."""
    pid_file = (stack.folder / ".stack" / "postgres").resolve() / "data" / "postmaster.pid"
    user = pid_file.stat().st_uid
    with subprocess.Popen(["sleep", "600"], user=user if os.geteuid() == 0 else None) as bystander:
        try:
            _, *lines = pid_file.read_text().splitlines()
            pid_file.write_text("\n".join([str(bystander.pid), *lines, ""]))
            yield
            assert bystander.poll() is None
        finally:
            bystander.kill()


async def _kept_event_of(kafka: str, tenant_id: str) -> None:
    """Return once a new consumer has seen an event of the tenant."""
    consumer = AIOKafkaConsumer(TENANT.name, bootstrap_servers=kafka, auto_offset_reset="earliest")
    async with consumer, asyncio.timeout(30):
        async for record in consumer:
            if record.key == tenant_id.encode():
                return


async def test_it_stands_on_given_servers_starts_none_and_leaves_them_running(
    folder: Path, servers: tuple[str, str]
) -> None:
    """As a user who may create roles and databases and nothing else: a hosted server gives no more."""
    postgres, kafka = servers
    given = await _user(postgres, "hosted", "createrole createdb")
    async with Started(folder, env=environment(DATABASE_URL=given, KAFKA_BOOTSTRAP_SERVERS=kafka)) as stack:
        await stack.says("Ctrl-C stops everything")
        assert "using the PostgreSQL server that is given" in stack.output
        assert "using the Kafka that is given" in stack.output
        assert stack.told("Kafka") == kafka
        pids = tree(stack.process.pid)
        assert {program(pid) for pid in pids} == {program(stack.process.pid), "gateway", *SERVICES}
        async with stack.client as platform:
            assert (await platform.post("/tenants", registration()))["id"]
        assert await stack.ends(with_signal=signal.SIGTERM) == 0
        assert "stopping" in stack.output
        assert alive(pids) == set()
    await ping(kafka)
    connection = await asyncpg.connect(postgres)
    try:
        owners = await connection.fetch("select datname from pg_database where datname like 'dotmac_%'")
        assert len(owners) == len(SERVICES)
    finally:
        await connection.close()


async def _user(postgres: str, name: str, attributes: str) -> str:
    """Create a user on a server and return the address with which it signs in."""
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(f"create role {name} login password 'not in the message' {attributes}")
    finally:
        await connection.close()
    return f"postgresql://{name}:not%20in%20the%20message@{postgres.rpartition('@')[2]}"


async def test_given_servers_that_do_not_let_it_in_are_named_with_the_reason(
    folder: Path, servers: tuple[str, str]
) -> None:
    postgres, kafka = servers
    place, nobody = postgres.rpartition("@")[2].partition("/")[0], f"127.0.0.1:{free_port()}"
    weak = await _user(postgres, "weak", "createdb")
    wrong = {
        "weak": ({"DATABASE_URL": weak}, "`alter role weak createrole`"),
        "password": ({"DATABASE_URL": weak.replace("not", "still%20not")}, f"PostgreSQL at {place} does not let"),
        "address": ({"DATABASE_URL": f"postgresql://u:p@{nobody}/postgres"}, f"PostgreSQL at {nobody} does not let"),
        "scheme": ({"DATABASE_URL": "mysql://u:p@h/d"}, "DATABASE_URL must be like postgresql://"),
        "kafka": ({"KAFKA_BOOTSTRAP_SERVERS": nobody}, f"no Kafka answers on {nobody}: "),
        "no kafka": ({"KAFKA_BOOTSTRAP_SERVERS": place}, f"no Kafka answers on {place}: "),
    }
    given = {"DATABASE_URL": postgres, "KAFKA_BOOTSTRAP_SERVERS": kafka}
    for name, (changes, reason) in wrong.items():
        output = await refused(folder / name, **{**given, **changes})
        assert "The stack did not start: " in output and reason in output, (name, output)
        assert "not in the message" not in output


async def test_a_port_that_is_given_and_taken_or_none_is_refused(folder: Path, servers: tuple[str, str]) -> None:
    taken = servers[1].rpartition(":")[2]
    output = await refused(folder, TENANT_PORT=taken)
    assert f"port {taken} of tenant, given by TENANT_PORT, is taken" in output
    assert "BILLING_PORT must be a port number; it is 'http'" in await refused(folder, BILLING_PORT="http")


async def test_a_service_that_can_not_start_ends_the_start_with_its_reason(
    folder: Path, servers: tuple[str, str]
) -> None:
    given = {"DATABASE_URL": servers[0], "KAFKA_BOOTSTRAP_SERVERS": servers[1]}
    started = time.monotonic()
    output = await refused(folder, ENVIRONMENT="production", SECRET_KEY="too short", **given)
    assert re.search(rf"The stack did not start: ({'|'.join(SERVICES)}) ended with status 1\.", output)
    assert "SECRET_KEY needs at least 32 characters" in output
    assert f"The end of {folder}/.stack/logs/" in output
    assert "too short" not in output
    assert time.monotonic() - started < 60


async def test_the_whole_job_runs_without_java_and_outlives_the_small_brokers_death(folder: Path) -> None:
    tools = folder / "bin"
    tools.mkdir()
    env = environment(PATH=str(tools))  # no Java, no Maven
    generate(folder / "subscribers.csv", 200)
    demo = (sys.executable, "-m", "cli", "demo", "--subscribers", "subscribers.csv")
    async with Started(folder, *demo, "--keep", env=env) as stack:
        await stack.says("Ctrl-C stops everything; the data stays in .stack, and `make run` takes it up.")
        assert stack.output.count("there is no java: running the small broker tansu instead of Apache Kafka") == 1
        assert re.search(r"invoices +│ (\d+) +│ \1 ", stack.output)
        pids = tree(stack.process.pid)
        small = next(pid for pid in pids if program(pid).startswith("tansu"))
        os.kill(small, signal.SIGKILL)
        await stack.says("tansu ended with status -9: starting it again")
        await stack.says("the broker is back")
        await _passes_events_on(stack)
        async with Started(
            folder / "again", *demo[:-1], "../subscribers.csv", "--folder", "../.stack", env=env
        ) as second:
            assert await second.ends() == 0, second.output
            assert f"Using the platform that runs at {stack.told('API').removesuffix('/api/v1')}." in second.output
        pids |= tree(stack.process.pid)
        assert await stack.ends(with_signal=signal.SIGINT, to_group=True) == 0
        assert alive(pids) == set()


async def _passes_events_on(stack: Started) -> None:
    """Return once deployments that were asked for have reached the service that carries them out, in any partition."""
    async with stack.client as platform:
        asked = []
        for _ in range(_TENANTS_IN_ALL_PARTITIONS):
            tenant = await platform.post("/tenants", registration())
            asked.append((await platform.post(f"/tenants/{tenant['id']}/deployments", {}))["deployment_id"])

        async def arrived() -> bool:
            with contextlib.suppress(ApiError):
                for deployment in asked:
                    await platform.get(f"/deployments/{deployment}")
                return True
            return False

        await eventually(arrived)


async def test_why_apache_kafka_can_not_run_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Folder(folder / "stack")
    await place.claim(print)
    tools = folder / "bin"
    tools.mkdir()

    async def reason() -> str:
        said: list[str] = []
        with pytest.raises(Unavailable) as unavailable:
            await Kafka(place, free_port(), said.append).start()
        assert "\n" not in str(unavailable.value)
        return str(unavailable.value)

    try:
        # A Maven without a repository, and a home without what one fetched before.
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        (folder / ".m2").mkdir()
        (folder / ".m2" / "settings.xml").write_text("<settings><offline>true</offline></settings>")
        if shutil.which("mvn"):
            monkeypatch.setenv("MAVEN_OPTS", f"-Duser.home={folder}")
            assert (await reason()).startswith("Maven can't fetch Kafka (")
            assert list((folder / "cache" / "dotmac").iterdir()) == []
        java = shutil.which("java")
        monkeypatch.setenv("PATH", str(tools))
        assert await reason() == "there is no java"
        if java:
            (tools / "java").symlink_to(java)
            assert await reason() == "there is no mvn"
            monkeypatch.setenv("XDG_CACHE_HOME", "/proc/1/nowhere")
            assert (await reason()).startswith("there is no place to keep Kafka's libraries (")
            (tools / "java").unlink()
        (tools / "java").write_text("#!/bin/sh\necho openjdk 11.0.2 2019-01-15\n")
        (tools / "java").chmod(0o755)
        assert await reason() == f"Java 17 is needed, and {tools}/java is older"
    finally:
        place.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests run as an ordinary user: every one of them shows it")
async def test_an_ordinary_user_runs_it() -> None:
    become = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    # The interpreter and the checkout may lie where only root can look: this lets the user read there, and no more.
    become += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, _NOBODY, _NOBODY)
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        env = environment(HOME=name, XDG_CACHE_HOME=cache)
        if why_not := _fails(*become, sys.executable, "-c", "", env=env):
            pytest.skip(f"no ordinary user can be made who reaches the interpreter: {why_not}")
        async with Started(folder, *become, sys.executable, "-m", "deploy.stack", env=env) as stack:
            await stack.says("Ctrl-C stops everything")
            pids = tree(stack.process.pid)
            assert users(alive(pids)) == {_NOBODY}
            async with stack.client as platform:
                assert (await platform.post("/tenants", registration()))["id"]
            assert await stack.ends(with_signal=signal.SIGTERM) == 0
            assert alive(pids) == set()
        assert (folder / ".stack" / "postgres" / "data").owner() == pwd.getpwuid(_NOBODY).pw_name


def _fails(*command: str, env: dict[str, str]) -> str:
    """Return why a command fails, or nothing."""
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr if done.returncode else ""


async def test_a_child_that_dies_at_once_is_started_again_after_growing_pauses(tmp_path: Path) -> None:
    said: list[str] = []
    child = Child("short", ["sh", "-c", "echo started; exit 3"], {}, tmp_path / "short.log")
    await child.start()

    async def dead() -> bool:
        try:
            child.raise_if_dead()
        except StackError as error:
            assert str(error) == f"short ended with status 3. The end of {tmp_path}/short.log:\nstarted"
            return True
        return False

    await eventually(dead)
    child.keep_alive(said.append)
    try:
        await eventually(lambda: _at_least(said, 3))
    finally:
        await child.stop()
    assert [line.partition(":")[2] for line in said[:3]] == [
        f" starting it again in {pause} s; see {tmp_path}/short.log" for pause in (1, 2, 4)
    ]


async def _at_least(lines: list[str], count: int) -> bool:
    return len(lines) >= count


async def test_a_log_that_grows_is_cut_while_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "talker.log"
    child = Child("talker", ["sh", "-c", "while echo said; do sleep 0.01; done"], {"PATH": os.environ["PATH"]}, log)
    await child.start()
    try:

        async def grown() -> bool:
            return log.exists() and log.stat().st_size > 50

        await eventually(grown)
        rotate(log, 1_000_000)
        assert not log.with_name("talker.log.1").exists()
        os.kill(child.pid or 0, signal.SIGSTOP)
        rotate(log, 50)
        assert set(log.with_name("talker.log.1").read_text().split()) == {"said"}
        assert log.stat().st_size < 50
        os.kill(child.pid or 0, signal.SIGCONT)
        await eventually(grown)
        assert b"\0" not in log.read_bytes()  # it goes on at the new end
    finally:
        await child.stop()
