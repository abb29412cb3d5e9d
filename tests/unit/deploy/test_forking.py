"""Children that are forked: each is what `python -m` of its module is."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deploy.stack.forking import ForkServer
from deploy.stack.processes import Child, StackError
from tests.api import eventually

_PROGRAM = """
import json, os, signal, sys, threading
with open(os.environ["TELL"], "w") as tell:
    json.dump({
        "name": __name__, "arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd(),
        "loaded": "chassis.run" in sys.modules, "leads": os.getpid() == os.getsid(0),
        "threads": threading.active_count(),
        "open": sorted(os.path.basename(os.path.realpath(f"/proc/self/fd/{fd}")) for fd in range(100)
                       if os.path.exists(f"/proc/self/fd/{fd}")),
    }, tell)
print("said", flush=True)
if sys.argv[1:] == ["stay"]:
    signal.pause()
sys.exit(7)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(_PROGRAM)
    return tmp_path


@pytest.fixture
async def forks(folder: Path) -> AsyncIterator[ForkServer]:
    server = ForkServer(folder / "server.log", {**os.environ, "OF_THE_SERVER": "1"})
    yield server
    await server.stop()


def child(forks: ForkServer, folder: Path, *arguments: str) -> Child:
    return Child(
        "program",
        [forks.python, "-m", "program", *arguments],
        {"TELL": str(folder / "told"), "PATH": os.environ["PATH"]},
        folder / "program.log",
        folder=folder,
        death_signal=signal.SIGKILL,
        forks=forks,
    )


async def told(folder: Path, times: int = 1) -> dict[str, Any]:
    async def there() -> bool:
        return (folder / "program.log").read_text().count("said") == times

    await eventually(there)
    found: dict[str, Any] = json.loads((folder / "told").read_text())
    return found


async def test_a_fork_is_the_module_with_its_own_environment_and_ends_with_its_own_status(
    forks: ForkServer, folder: Path
) -> None:
    program = child(forks, folder, "one", "two")
    with pytest.raises(StackError, match=r"program ended with status 7\. The end of .*:\nsaid"):
        await program.run()
    assert await told(folder) == {
        "name": "__main__",
        "arguments": ["one", "two"],
        "environment": {"TELL": str(folder / "told"), "PATH": os.environ["PATH"]},
        "folder": str(folder),
        "loaded": True,
        "leads": True,
        "threads": 1,
        "open": ["null", "program.log", "program.log", "told"],
    }
    assert program.pid is None and program.status == 7


async def test_forks_share_one_server_and_are_stopped_and_killed_alone(forks: ForkServer, folder: Path) -> None:
    one, another = child(forks, folder, "stay"), child(forks, folder, "stay")
    await asyncio.gather(one.start(), another.start())
    await told(folder, times=2)
    parents = {_parent(one.pid), _parent(another.pid)}
    assert len(parents) == 1 and parents != {os.getpid()}
    one.kill()
    await eventually(lambda: _ended(one))
    assert one.status == -signal.SIGKILL and another.pid is not None
    await another.stop()
    assert another.status == -signal.SIGTERM


async def test_forks_end_with_their_server_and_a_new_one_is_started_for_the_next(
    forks: ForkServer, folder: Path
) -> None:
    program = child(forks, folder, "stay")
    await program.start()
    await told(folder)
    pid, server = program.pid, _parent(program.pid)
    os.kill(server, signal.SIGKILL)
    await eventually(lambda: _ended(program))
    assert program.status == -signal.SIGKILL
    await eventually(lambda: _is_gone(pid))
    (folder / "program.log").write_text("")
    await program.start()
    await told(folder)
    assert _parent(program.pid) != server


async def test_a_server_that_does_not_start_says_why(folder: Path) -> None:
    broken = folder / "python"
    broken.write_text("#!/bin/sh\necho it is broken >&2; exit 1\n")
    broken.chmod(0o700)
    forks = ForkServer(folder / "server.log", os.environ, python=str(broken))
    with pytest.raises(StackError, match=r"program did not start: the fork server ended\. .*\nit is broken"):
        await child(forks, folder).start()
    await forks.stop()


def _parent(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def _ended(program: Child) -> bool:
    return program.status is not None


def _runs(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()


async def _is_gone(pid: int | None) -> bool:
    return not _runs(pid)
