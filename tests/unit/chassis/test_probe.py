"""The health check of a container says what the process beside it says."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from chassis.http import probe
from deploy.stack.processes import free_port


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[int, bytes]]]:
    answers: dict[str, tuple[int, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return None

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("PORT", str(server.server_port))
        yield answers
        server.shutdown()
        thread.join()


def test_ready_is_healthy(answer: dict[str, tuple[int, bytes]]) -> None:
    answer["/health/ready"] = (200, b"{}")
    probe.main()


def test_not_ready_gives_the_reasons(answer: dict[str, tuple[int, bytes]]) -> None:
    answer["/health/ready"] = (503, b'{"checks": {"broker": "it is away"}}')
    with pytest.raises(SystemExit, match="it is away"):
        probe.main()


def test_no_answer_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", str(free_port()))
    with pytest.raises(SystemExit, match="no answer"):
        probe.main()
