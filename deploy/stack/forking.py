"""Children that are forks of a process that has loaded what they run, so that none loads it again."""

import asyncio
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.stack.processes import Child, StackError

_COMMON = ("chassis.run", "chassis.persistence.migrations")
"""What all services load, and nothing that one of them alone does: its metrics would be there in every other."""
_LARGEST_MESSAGE = 64 * 1024


class ForkServer:
    """Forks services from one process, `deploy.stack.fork_server`, which is started when it is first needed."""

    def __init__(
        self,
        log: Path,
        environment: Mapping[str, str] = os.environ,
        *,
        python: str = sys.executable,
        inherit: Sequence[int] = (),
    ) -> None:
        """`python`: of the environment in which the services are. `inherit`: descriptors that all forks hold."""
        self._log = log
        self._environment = environment
        self.python = python
        self._inherit = tuple(inherit)
        self._starting = asyncio.Lock()
        self._server: Child | None = None
        self._control: socket.socket | None = None
        self._forks: dict[int, Fork] = {}
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Have it load what services have in common, if it does not run."""
        async with self._starting:
            if self._control is not None:
                return
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            command = [self.python, "-m", "deploy.stack.fork_server", str(theirs.fileno()), *_COMMON]
            inherit = (theirs.fileno(), *self._inherit)
            server = Child(
                "fork-server", command, self._environment, self._log, death_signal=signal.SIGKILL, inherit=inherit
            )
            try:
                await server.start()
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
            self._server, self._control = server, ours
            asyncio.get_running_loop().add_reader(ours, self._hear)

    async def fork(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path | None, death_signal: int
    ) -> "Fork":
        """Start `python -m MODULE ARGUMENT…` as a fork, and return it; StackError if the server does not run."""
        python, option, module, *arguments = command
        assert (python, option) == (self.python, "-m"), "it forks modules of its own environment alone"
        await self.start()
        fork = Fork(self, next(self._numbers))
        self._forks[fork.number] = fork
        self.say(
            id=fork.number,
            module=module,
            arguments=arguments,
            environment=dict(environment),
            log=str(log),
            folder=None if folder is None else str(folder),
            death_signal=death_signal,
        )
        try:
            await fork.begun.wait()
        except asyncio.CancelledError:
            fork.kill()
            raise
        if fork.pid is None:
            assert self._server is not None
            raise StackError(f"{module} did not start: the fork server ended. {self._server.said()}")
        return fork

    def say(self, **what: object) -> None:
        """Send the server a message."""
        if self._control is None:
            return
        try:
            self._control.send(json.dumps(what).encode())
        except BlockingIOError:
            raise StackError("the fork server does not keep up") from None
        except OSError:
            self._end()

    async def stop(self) -> None:
        """End it, and with it what it has forked."""
        self._end()
        if self._server is not None:
            await self._server.stop()

    def _hear(self) -> None:
        assert self._control is not None
        try:
            message = self._control.recv(_LARGEST_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._end()
            return
        heard = json.loads(message)
        fork = self._forks[heard["id"]]
        if "pid" in heard:
            fork.pid = heard["pid"]
        else:
            fork.returncode = heard["status"]
            fork.ended.set()
            del self._forks[fork.number]
        fork.begun.set()

    def _end(self) -> None:
        """Take it that the server has ended: its forks end with it."""
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        for fork in self._forks.values():
            fork.returncode = -signal.SIGKILL
            fork.begun.set()
            fork.ended.set()
        self._forks.clear()


class Fork:
    """A process that was forked; like a subprocess, as far as a child is concerned."""

    def __init__(self, server: ForkServer, number: int) -> None:
        self.number = number
        self.pid: int | None = None
        self.returncode: int | None = None
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self._server = server

    async def wait(self) -> int:
        """Return how it ended: its exit status, or minus the signal that killed it."""
        await self.ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, signal: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            self._server.say(id=self.number, signal=signal)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.send_signal(signal.SIGKILL)
