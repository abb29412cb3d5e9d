"""A server that is replaced while clients come to it."""

import asyncio
import socket

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from chassis.http.server import DrainingServer, configured
from deploy.stack.processes import free_port
from tests.api import eventually


async def hello(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def test_who_has_got_through_is_answered_though_nobody_has_taken_the_connection_in() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as a service's process runs
        runner.run(drained_under_clients())


async def drained_under_clients() -> None:
    port = free_port()
    server = DrainingServer(configured(Starlette(routes=[Route("/", hello)]), "127.0.0.1", port))
    serving = asyncio.create_task(server._serve())

    async def started() -> bool:
        return server.started

    await eventually(started)
    # The system lets them in; this thread, in which the server runs, is busy until it drains.
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nhost: t.example\r\n\r\n")
    await server.drain(5)
    server.should_exit = True
    await serving
    for client in clients:
        client.settimeout(5)
        answer = b""
        while more := client.recv(65_536):
            answer += more
        client.close()
        assert answer.startswith(b"HTTP/1.1 200 OK") and answer.endswith(b"hello")
        assert b"connection: close" in answer
