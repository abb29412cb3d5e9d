"""Child processes that end with their parent, log to a file, and are started again when they die."""

import asyncio
import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
# Below the ports that the kernel gives to outgoing connections: one of those could take a port of ours between the
# moment it is chosen and the moment its server listens.
_FREE_PORTS = range(20_000, 31_000)
STACK_PORTS = range(31_000, 32_000)
"""A stack's alone: what it chooses beside the ports of its services, on which nothing may listen for long."""
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 10.0
_STABLE_SECONDS = 10.0
_TAIL_BYTES = 16 * 1024
_TAIL_LINES = 20

Say = Callable[[str], None]
"""Takes a line of progress for the person who started the stack."""


class StackError(Exception):
    """Something did not start; the message says what, why and how to mend it."""


def is_free(port: int) -> bool:
    """Return whether a server could listen on this TCP port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(taken: Collection[int] = (), among: range = _FREE_PORTS) -> int:
    """Return a TCP port of the loopback address that nobody uses now and that is not in `taken`."""
    for _ in range(1000):
        port = random.choice(among)
        if port not in taken and is_free(port):
            return port
    raise StackError(f"no port between {among.start} and {among.stop} is free")


def own_address() -> str:
    """Return the address at which this machine reaches others, and containers on it reach it; empty if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # of documentation: nothing is sent
        except OSError:
            return ""
        found: str = probe.getsockname()[0]
    return found


def rotate(log: Path, largest: int) -> None:
    """Once a log has more than `largest` bytes, keep them in `<log>.1` and empty it under its writer, who appends."""
    if log.exists() and log.stat().st_size > largest:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def tied_to(parent: int, death_signal: int, user: tuple[int, int] | None = None) -> Callable[[], None]:
    """Return what a child does first, so that it gets this signal when its parent ends."""

    def prepare() -> None:
        if user is not None:
            os.setgroups([])
            os.setgid(user[1])
            os.setuid(user[0])
        # After setuid, which clears it.
        _libc.prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


class Running(Protocol):
    """What a child needs of its process."""

    @property
    def pid(self) -> int | None: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...
    def send_signal(self, signal: int) -> None: ...
    def kill(self) -> None: ...


class Forks(Protocol):
    """What starts a Python module without loading it."""

    async def fork(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path | None, death_signal: int
    ) -> Running: ...


class Child:
    """One process of the stack."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        stop_signal: int = signal.SIGTERM,
        death_signal: int | None = None,
        user: tuple[int, int] | None = None,
        folder: Path | None = None,
        inherit: Sequence[int] = (),
        forks: Forks | None = None,
    ) -> None:
        """What to run, and how.

        `death_signal`: what it gets when this process dies without a word, if not `stop_signal`.
        `user`: uid and gid to run as. `folder`: where to run. `inherit`: file descriptors that it holds.
        `forks`: what it is forked by, as this user and with the descriptors of that one.
        """
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._stop_signal = stop_signal
        self._death_signal = stop_signal if death_signal is None else death_signal
        self._user = user
        self._folder = folder
        self._inherit = tuple(inherit)
        self._forks = forks
        self._process: Running | None = None
        self._watch: asyncio.Task[None] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def status(self) -> int | None:
        """How it ended: its exit status, or minus the signal that killed it."""
        return self._process.returncode if self._process else None

    @property
    def kept_alive(self) -> bool:
        """Whether it is started again when it dies."""
        return self._watch is not None

    async def start(self) -> None:
        """Start it, in a session of its own so that Ctrl-C reaches the stack alone."""
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            if self._forks is not None:
                self._process = await self._forks.fork(
                    self._command, self._environment, self.log, self._folder, self._death_signal
                )
                return
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                pass_fds=self._inherit,
                preexec_fn=tied_to(os.getpid(), self._death_signal, self._user),
            )

    async def run(self) -> None:
        """Start it and wait for its end; StackError with the end of its log unless it succeeds."""
        await self.start()
        assert self._process is not None
        try:
            if await self._process.wait():
                self.raise_if_dead()
        finally:
            await self.stop()

    def keep_alive(self, say: Say, restarted: Callable[[], Awaitable[None]] | None = None) -> None:
        """From now on start it again whenever it dies, and tell so, until it is stopped.

        `restarted` is awaited after each such start; its StackError is told, not raised.
        """
        if self._watch is None:
            self._watch = asyncio.create_task(self._restart_when_it_dies(say, restarted), name=f"watch-{self.name}")

    async def _restart_when_it_dies(self, say: Say, restarted: Callable[[], Awaitable[None]] | None) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            assert self._process is not None
            started = time.monotonic()
            status = await self._process.wait()
            stable = time.monotonic() - started > _STABLE_SECONDS
            backoff = _FIRST_BACKOFF_SECONDS if stable else min(backoff * 2, _LONGEST_BACKOFF_SECONDS)
            say(f"{self.name} ended with status {status}: starting it again in {backoff:g} s; see {self.log}")
            await asyncio.sleep(backoff)
            try:
                await self.start()
                if restarted:
                    await restarted()
            except (OSError, StackError) as error:
                say(f"{self.name} did not come back: {error}")

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would; a process that is kept alive comes back."""
        if self._process and self._process.returncode is None:
            self._process.kill()

    async def stop(self, patience_seconds: float = 20) -> None:
        """Ask it to stop, and kill it if it does not; it stays stopped."""
        if self._watch:
            self._watch.cancel()
            await asyncio.wait({self._watch})
            self._watch = None
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(self._stop_signal)
            try:
                async with asyncio.timeout(patience_seconds):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    def raise_if_dead(self) -> None:
        """StackError with the end of its log if it has ended."""
        if self._process and self._process.returncode is not None:
            raise StackError(f"{self.name} ended with status {self._process.returncode}. {self.said()}")

    def said(self) -> str:
        """Return the end of what it logged since it was started last."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start if self._log_start <= size else 0, size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join([f"The end of {self.log}:", *lines[-_TAIL_LINES:]])
