"""Apache Kafka, one node without ZooKeeper, from Maven's artifact."""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import signal
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from deploy.stack.broker import Broker
from deploy.stack.folder import Folder
from deploy.stack.processes import STACK_PORTS, Child, Say, StackError, free_port

_POM = Path(__file__).with_name("kafka-pom.xml")
_OLDEST_JAVA = 17
_MAVEN_SECONDS = 900
_LOG4J = """
Configuration:
  status: warn
  Appenders: {Console: {name: STDOUT, PatternLayout: {pattern: "%d %p %c %m%n"}}}
  Loggers: {Root: {level: warn, AppenderRef: {ref: STDOUT}}}
"""
_JVM = (
    "-Xmx512m",
    "-Xms128m",
    # The serial collector and the first compiler alone cost the least beside the services on a few cores: in 240,000
    # events a broker spent 4.7 µs of CPU on each, 7.3 µs with the second compiler, and started with half the CPU.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xlog:cds=off",
    "-Xlog:cds+dynamic=off",
)


def _properties(port: int, controller: int, data: Path, beside: str | None) -> str:
    clients = f"PLAINTEXT://127.0.0.1:{port}" + (f",CONTAINERS://{beside}" if beside else "")
    return f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={clients},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={clients}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTAINERS:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1500
# Of 128 MB by default, for the compaction of the offsets alone.
log.cleaner.dedupe.buffer.size=16777216
"""


class Unavailable(Exception):
    """Apache Kafka can't run on this machine; the message says why, in one line."""


class Kafka(Broker):
    """One broker and its data, which a second start takes up."""

    idempotence = True
    formatting: Sequence[str] = ()
    """What the storage is formatted with besides, such as the first users."""

    def __init__(self, folder: Folder, port: int, say: Say, beside: str | None = None) -> None:
        """`beside`: another address to listen on, as host:port, for those who don't reach the loopback address."""
        super().__init__(folder, port)
        self._say = say
        self._beside = beside
        self._home = folder.path / "kafka"
        self._classes = self._new_classes = Path()

    def properties(self, controller: int, data: Path) -> str:
        """Return the broker's configuration; `controller` is the port that it talks to itself on."""
        return _properties(self._port, controller, data, self._beside)

    async def start(self) -> None:
        """Fetch it if need be, format on the first start, start, and wait until it answers; may raise Unavailable."""
        java = await self._java()
        libraries = await self._libraries()
        self._home.mkdir(exist_ok=True)
        data, config, log4j = (self._home / name for name in ("data", "server.properties", "log4j2.yaml"))
        config.touch(mode=0o600)
        config.write_text(self.properties(free_port(among=STACK_PORTS), data))
        log4j.write_text(_LOG4J)
        command = ["java", *_JVM, f"-Dlog4j2.configurationFile={log4j}"]
        # Loading its classes takes most of a JVM's start. The first broker of this machine writes them down when it
        # ends (class data sharing); those after it start in a quarter of the time.
        self._classes = libraries.with_name(f"{libraries.name}-java-{java}.jsa")
        self._new_classes = self._home / "classes.jsa"
        self._new_classes.unlink(missing_ok=True)
        shared = self._classes.exists()
        reading = [f"-XX:SharedArchiveFile={self._classes}"] if shared else []
        writing = [] if shared else [f"-XX:ArchiveClassesAtExit={self._new_classes}"]
        classpath = ["-cp", f"{libraries}/*"]
        if not (data / "meta.properties").exists():
            storage = ["kafka.tools.StorageTool", "format", "-t", str(uuid.uuid4()), "-c", str(config)]
            storage += self.formatting
            await self._process("kafka-format", [*command, *reading, *classpath, *storage]).run()
        self.child = self._process("kafka", [*command, *reading, *writing, *classpath, "kafka.Kafka", str(config)])
        await self.child.start()
        await self.answers()

    def _process(self, name: str, command: list[str], log: Path | None = None) -> Child:
        return Child(name, command, os.environ, log or self._log, inherit=self._folder.inherited)

    async def _java(self) -> str:
        """Return what identifies the JVM, for the classes it wrote down."""
        path = shutil.which("java")
        if path is None:
            raise Unavailable("there is no java")
        asked = await asyncio.create_subprocess_exec(
            path, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        answer, _ = await asked.communicate()
        found = re.search(rb"\d+", answer)
        if asked.returncode or found is None or int(found[0]) < _OLDEST_JAVA:  # before 9 there is no --version
            raise Unavailable(f"Java {_OLDEST_JAVA} is needed, and {path} is older")
        return hashlib.sha256(answer).hexdigest()[:12]

    async def _libraries(self) -> Path:
        """Return the folder with Kafka's jars, which Maven fetches once for this machine's user."""
        try:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dotmac"
            libraries = cache / f"kafka-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"
            if not libraries.exists():
                cache.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix="part-", dir=cache) as part:
                    whole = Path(part) / "whole"
                    await self._fetch(whole)
                    if not libraries.exists():  # else another stack was faster
                        whole.rename(libraries)
        except (OSError, RuntimeError) as error:
            raise Unavailable(f"there is no place to keep Kafka's libraries ({error})") from None
        return libraries

    async def _fetch(self, target: Path) -> None:
        if shutil.which("mvn") is None:
            raise Unavailable("there is no mvn")
        self._say("fetching Kafka with Maven, once for this machine")
        log = self._folder.logs / "maven.log"
        command = ["mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies", f"-DoutputDirectory={target}"]
        try:
            async with asyncio.timeout(_MAVEN_SECONDS):
                await self._process("maven", command, log).run()
        except StackError as error:
            reason = re.search(r"\[ERROR\] *(.+)", str(error))
            raise Unavailable(f"Maven can't fetch Kafka ({reason[1][:300] if reason else f'see {log}'})") from None
        except TimeoutError:
            raise Unavailable(f"Maven did not fetch Kafka within {_MAVEN_SECONDS} s (see {log})") from None

    async def stop(self) -> None:
        """Stop the broker; the data stays."""
        await super().stop()
        if self._new_classes.is_file() and self.child and self.child.status != -signal.SIGKILL:
            # The cache may be read-only, or on another file system; then the next start takes longer, no more.
            with contextlib.suppress(OSError):
                part = self._classes.with_name(f"{self._classes.name}.{uuid.uuid4().hex}")
                shutil.move(self._new_classes, part)
                part.rename(self._classes)
