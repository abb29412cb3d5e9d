"""What the stack keeps in its folder: who runs on it, its secrets, its logs and its data."""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deploy.stack.processes import Say, StackError

_PROBE_SECONDS = 0.5  # `running` of somebody else holds the lock for a moment
_REMAINS_SECONDS = 60.0


class Folder:
    """A folder that one stack at a time runs on."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.logs = self.path / "logs"
        self._lock: int | None = None
        self._remains: int | None = None

    @property
    def inherited(self) -> list[int]:
        """The file descriptors that every child must hold, so that a lock outlives a stack that is killed."""
        return [] if self._remains is None else [self._remains]

    async def claim(self, say: Say) -> None:
        """Make the folder if need be, and be its only stack until `release`; StackError if another one is.

        The kernel drops the locks when their holders die, however that happens: nothing here can be stale.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self.logs.mkdir(exist_ok=True)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not await _locked(self._lock, _PROBE_SECONDS):
            self.release()
            raise StackError(f"a stack already runs, or starts, on {self.path}: stop it first, or use it as it is")
        self._remains = os.open(self.path / "remains.lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not await _locked(self._remains, 0):
            say("waiting for the processes of a stack that was killed here")
            if not await _locked(self._remains, _REMAINS_SECONDS):
                self.release()
                raise StackError(f"processes of a stack that was killed still run on {self.path}: end them first")
        (self.path / "state.json").unlink(missing_ok=True)

    def release(self) -> None:
        """Let another stack have the folder."""
        for descriptor in (self._lock, self._remains):
            if descriptor is not None:
                os.close(descriptor)
        self._lock = self._remains = None

    def secrets(self, names: Iterable[str]) -> dict[str, str]:
        """Return the secrets of these names, made when they are first asked for and kept."""
        file = self.path / "secrets.json"
        kept: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        missing = [name for name in names if name not in kept]
        if missing:
            kept.update((name, secrets.token_urlsafe(36)) for name in missing)
            _write(file, kept)
        return kept

    def publish(self, state: dict[str, Any]) -> None:
        """Say where the stack is, for `running`."""
        _write(self.path / "state.json", {"pid": os.getpid(), **state})

    def withdraw(self) -> None:
        """Take back what `publish` said."""
        if self._lock is not None:
            for name in ("state.json", "targets.json"):
                (self.path / name).unlink(missing_ok=True)


def running(path: Path) -> dict[str, Any] | None:
    """Return what the stack that runs on a folder published, or None if none runs, or it is still starting."""
    try:
        lock = os.open(path / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(FileNotFoundError):
            state: dict[str, Any] = json.loads((path / "state.json").read_text())
            return state
    finally:
        os.close(lock)
    return None


async def _locked(descriptor: int, patience_seconds: float) -> bool:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.05)
        else:
            return True


def _write(file: Path, content: dict[str, Any]) -> None:
    """Replace a file at once, readable by its owner only."""
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_text(json.dumps(content, indent=1))
    part.replace(file)
