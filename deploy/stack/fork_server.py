"""A process that has loaded what services have in common, and becomes one of them in each of its forks.

`python -m deploy.stack.fork_server FD MODULE…` loads the modules and answers on FD, a socket that it inherits, which
keeps messages apart. They are JSON:
  {"id": 1, "module": "services.customer", "arguments": [], "environment": {…}, "log": "…", "folder": null,
   "death_signal": 9}      asks for a fork, which gets that signal at the server's end
  {"id": 1, "pid": 4711}   tells of it
  {"id": 1, "signal": 15}  asks to send it a signal, unless it has ended
  {"id": 1, "status": 0}   tells of its end: its exit status, or minus the signal that killed it

To load takes two seconds of a processor, and a fork a hundredth of one, which shares the memory besides. A fork is what
`python -m MODULE` is: it has the environment that it is given and nothing else of this process, which began no thread
and opened no connection.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from deploy.stack.processes import tied_to

_PR_SET_NAME = 15
_LARGEST_MESSAGE = 1024 * 1024
_libc = ctypes.CDLL(None)


def main() -> None:
    """Serve until the other end of the socket is closed, or be a fork."""
    fd, *modules = sys.argv[1:]
    control = socket.socket(fileno=int(fd))
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else the collector of a fork writes to each page, which then is shared no more
    if (asked := _serve(control)) is not None:
        _become(asked)


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork as asked; return None at the end, and in a fork what it was asked for."""
    server, forks = os.getpid(), dict[int, int]()
    # The end of a fork is read like a request, so that none comes between two steps of another.
    ended, woken = socket.socketpair()
    for end in (ended, woken):
        end.setblocking(False)
    before = signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(ended, selectors.EVENT_READ)
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if ended in ready:
            ended.recv(4096)
            for fork, status in _reaped(forks):
                _say(control, id=fork, status=status)
        if control not in ready:
            continue
        if not (message := control.recv(_LARGEST_MESSAGE)):
            return None
        asked = json.loads(message)
        if "signal" in asked:
            for pid in [pid for pid, fork in forks.items() if fork == asked["id"]]:
                os.kill(pid, asked["signal"])
            continue
        pid = os.fork()
        if pid:
            forks[pid] = asked["id"]
            _say(control, id=asked["id"], pid=pid)
            continue
        tied_to(server, asked["death_signal"])()
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        selector.close()
        for each in (control, ended, woken):
            each.close()
        return dict(asked)


def _reaped(forks: dict[int, int]) -> list[tuple[int, int]]:
    """Return which forks have ended, and how."""
    gone = []
    while forks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            break
        gone.append((forks.pop(pid), os.waitstatus_to_exitcode(status)))
    return gone


def _say(control: socket.socket, **what: int) -> None:
    control.send(json.dumps(what).encode())


def _become(asked: dict[str, Any]) -> None:
    """Be `python -m MODULE`, in a session of its own so that Ctrl-C reaches the stack alone."""
    os.setsid()
    _libc.prctl(_PR_SET_NAME, asked["module"].rpartition(".")[2].encode())
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for output in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(log, output)
    os.close(log)
    if asked["folder"] is not None:
        os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[0] = str(Path.cwd())
    sys.argv = [asked["module"], *asked["arguments"]]
    sys.modules.pop(asked["module"], None)  # as `-m` has it, what is run is not what others import
    runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
