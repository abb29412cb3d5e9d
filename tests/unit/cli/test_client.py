"""The client comes again when it is told to, and what it sends then is known as the same."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from cli.client import ApiError, Client


class Server:
    """Answers as it is told, and remembers what came."""

    def __init__(self) -> None:
        self.answers: list[web.Response] = []
        self.requests: list[tuple[str | None, bytes]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        if request.path.endswith("/auth/token"):
            return web.json_response({"access_token": "t", "expires_in": 900})
        self.requests.append((request.headers.get("Idempotency-Key"), await request.read()))
        return self.answers.pop(0)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    served = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = "http://127.0.0.1:{1}".format(*runner.addresses[0])
    yield served
    await runner.cleanup()


def busy(**headers: str) -> web.Response:
    return web.json_response({"status": 503}, status=503, headers=headers)


async def test_a_post_is_sent_again_with_its_key(server: Server) -> None:
    server.answers = [busy(**{"Retry-After": "0"}), web.json_response({"id": 1}, status=201)]
    async with Client(server.url, "a", "b") as client:
        assert await client.post("/tenants", {"name": "x"}) == {"id": 1}
    first, second = server.requests
    assert first == second
    assert first[0]


async def test_two_posts_are_two(server: Server) -> None:
    server.answers = [web.json_response({}), web.json_response({})]
    async with Client(server.url, "a", "b") as client:
        await client.post("/tenants", {})
        await client.post("/tenants", {})
    assert len({key for key, _ in server.requests}) == 2


@pytest.mark.parametrize(("answers", "sent"), [([busy()], 1), ([busy(**{"Retry-After": "0"}) for _ in range(5)], 5)])
async def test_it_gives_up_where_nothing_says_when_and_after_five_times(
    server: Server, answers: list[web.Response], sent: int
) -> None:
    server.answers = list(answers)
    async with Client(server.url, "a", "b") as client:
        with pytest.raises(ApiError, match="503"):
            await client.get("/tenants")
    assert len(server.requests) == sent


async def test_a_stream_is_not_sent_again(server: Server) -> None:
    async def rows() -> AsyncIterator[bytes]:
        yield b"{}"

    server.answers = [busy(**{"Retry-After": "0"})]
    async with Client(server.url, "a", "b") as client:
        with pytest.raises(ApiError, match="503"):
            await client.call("POST", "/customers/imports", stream=rows())
    assert [body for _, body in server.requests] == [b"{}"]
