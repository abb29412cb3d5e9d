"""Child processes that die with their parent, log to a file, and are started again when they die."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class StackError(Exception):
    """Something did not start; the message says what, why and how to mend it."""


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tied_to_parent(parent: int, uid: int | None, gid: int | None) -> Callable[[], None]:
    def prepare() -> None:
        if uid is not None and gid is not None:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
        # After setuid, which clears it.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


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
        user: tuple[int, int] | None = None,
        folder: Path | None = None,
        keep_alive: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._stop_signal = stop_signal
        self._user = user
        self._folder = folder
        self._keep_alive = keep_alive
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it, in a session of its own so that Ctrl-C reaches the stack alone."""
        await self._spawn()
        if self._keep_alive and (self._watch is None or self._watch.done()):
            self._watch = asyncio.create_task(self._restart_when_it_dies(), name=f"watch-{self.name}")

    async def _spawn(self) -> None:
        uid, gid = self._user or (None, None)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                preexec_fn=_tied_to_parent(os.getpid(), uid, gid),
            )

    async def _restart_when_it_dies(self) -> None:
        backoff = 0.5
        while True:
            assert self._process is not None
            started = time.monotonic()
            await self._process.wait()
            backoff = 0.5 if time.monotonic() - started > 10 else min(backoff * 2, 10)
            await asyncio.sleep(backoff)
            await self._spawn()  # stop() cancels this task first

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would; a process that is kept alive comes back."""
        if self._process and self._process.returncode is None:
            self._process.kill()

    async def stop(self, patience_seconds: float = 20) -> None:
        """Ask it to stop, and kill it if it does not."""
        if self._watch:
            self._watch.cancel()
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
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise StackError(
                f"{self.name} ended with status {self._process.returncode}. The end of {self.log}:\n{tail}"
            )
