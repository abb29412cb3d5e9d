"""The gateway's data path: what goes through, what stays, what is refused, and what happens when something breaks."""

import asyncio
import gzip
import re
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest
from yarl import URL

from chassis.ids import PLATFORM_TENANT, new_id
from chassis.security.tokens import TokenIssuer
from chassis.settings import Settings
from deploy.roles import SERVICES
from deploy.stack.processes import free_port
from tests.api import eventually
from tests.feed import FEED
from tests.gateway import ISSUER, PATH, Service, gateway, head, ok, problem, saying, service, token

DEADLINE = "X-Envoy-Expected-Rq-Timeout-Ms"


# What goes through


async def test_headers_go_through_but_those_of_one_connection() -> None:
    answer = ok(
        b"x",
        "X-Drop: 1",
        "Connection: X-Drop, keep-alive",
        "Keep-Alive: timeout=5",
        "X-Twice: a",
        "X-Twice: b",
        "Set-Cookie: c=1",
        "Date: Tue, 24 Nov 2026 20:00:00 GMT",
    )
    sent = [
        ("X-Twice", "1"),
        ("X-Twice", "2"),
        ("X-Gone", "1"),
        ("Connection", "x-gone"),
        ("TE", "trailers"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("X-Forwarded-For", "9.9.9.9"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Request-ID", "mine-1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
    ]
    async with service(saying(answer)) as upstream, gateway(customer_url=upstream.url) as running:
        async with running.client() as client, client.get(PATH, headers=sent) as response:
            assert response.status == 200
            assert response.headers.getall("X-Twice") == ["a", "b"]
            assert response.headers.getall("Date") == ["Tue, 24 Nov 2026 20:00:00 GMT"]
            assert response.headers["Set-Cookie"] == "c=1"
            assert response.headers["X-Request-ID"] == "mine-1"
            assert not {"X-Drop", "Keep-Alive"} & response.headers.keys()
        (asked,) = upstream.asked
    assert asked.all("x-twice") == ["1", "2"]
    assert asked.all("x-gone") == asked.all("te") == asked.all("proxy-authorization") == asked.all("connection") == []
    assert asked.all("x-forwarded-for") == ["127.0.0.1"]  # what the client says of itself stays behind
    assert asked.all("x-forwarded-proto") == ["http"]
    assert asked.all("x-forwarded-host") == []
    assert asked.all("host") == [f"127.0.0.1:{upstream.port}"]
    assert asked.all("x-request-id") == ["mine-1"]
    assert asked.all("traceparent") == ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"]


async def test_what_an_answer_does_not_say_of_its_safety_is_said() -> None:
    answer = ok(b"x", "Cache-Control: max-age=60")
    async with (
        service(saying(answer)) as upstream,
        gateway(customer_url=upstream.url, trusted_proxies="127.0.0.1") as running,
        running.client() as client,
    ):
        for path, status in ((PATH, 200), ("/api/v1/plans/%00", 400), ("/nothing", 404)):
            async with client.get(URL(path, encoded=True), headers={"X-Forwarded-Proto": "https"}) as response:
                assert response.status == status
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers.getall("Cache-Control") == ["max-age=60" if status == 200 else "no-store"]
                assert status == 404 or "max-age" in response.headers["Strict-Transport-Security"]
        (asked,) = upstream.asked
        assert asked.all("x-forwarded-proto") == ["https"]


async def test_only_pages_of_listed_origins_may_read_answers() -> None:
    async with (
        service(saying(ok())) as upstream,
        gateway(customer_url=upstream.url, cors_origins="https://console.example") as running,
        running.client() as client,
    ):
        for origin, allowed in (("https://console.example", True), ("https://evil.example", False)):
            asks = {"Origin": origin, "Access-Control-Request-Method": "GET"}
            async with client.options(PATH, headers=asks) as response:
                assert response.status == (200 if allowed else 400)
                assert ("Access-Control-Allow-Origin" in response.headers) is allowed
            assert upstream.asked == []
            for path in (PATH, "/health/live", "/api/v1/plans"):
                async with client.get(path, headers={"Origin": origin}) as response:
                    assert (response.headers.get("Access-Control-Allow-Origin") == origin) is allowed
                    assert not allowed or "RateLimit" in response.headers["Access-Control-Expose-Headers"]
            upstream.asked.clear()


async def test_a_request_without_names_gets_them() -> None:
    async with service(saying(ok())) as upstream, gateway(customer_url=upstream.url) as running:
        async with running.client() as client, client.get(PATH, headers={"X-Request-ID": "no spaces"}) as response:
            given = response.headers["X-Request-ID"]
        (asked,) = upstream.asked
    assert asked.all("x-request-id") == [given]
    assert given != "no spaces"
    (traceparent,) = asked.all("traceparent")
    assert given in traceparent


@pytest.mark.parametrize(
    "target",
    [
        f"{PATH}/a%20b?q=%2F..%2F",
        f"{PATH}/%7euser/x;y=1?",
        f"{PATH}?a=1&a=2&b=%C3%A9+c",
        f"{PATH}/" + "x" * 4000,
    ],
)
async def test_a_target_goes_through_as_it_came(target: str) -> None:
    async with service(saying(ok())) as upstream, gateway(customer_url=upstream.url) as running:
        reader, writer = await running.raw(head("GET", target))
        assert b"200" in await reader.readline()
        writer.close()
        (asked,) = upstream.asked
    assert asked.line == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize("path", ["/a%2Fb", "/../x", "//x", "/%00", "/a%252fb", "/%zz"])
async def test_a_path_with_two_readings_goes_nowhere(path: str) -> None:
    async with service(saying(ok())) as upstream, gateway(customer_url=upstream.url) as running:
        reader, writer = await running.raw(head("GET", PATH + path))
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()
        assert upstream.asked == []


async def test_a_whole_url_as_target_goes_on_as_path_and_query() -> None:
    async with service(saying(ok())) as upstream, gateway(customer_url=upstream.url) as running:
        reader, writer = await running.raw(head("GET", f"http://gateway{PATH}?q=1"))
        assert b"200" in await reader.readline()
        writer.close()
        assert upstream.asked[0].line == f"GET {PATH}?q=1 HTTP/1.1"


async def test_each_path_goes_to_its_service_by_whole_segments() -> None:
    async with (
        service(saying(ok(b"tenant"))) as tenant,
        service(saying(ok(b"customer"))) as customer,
        service(saying(ok(b"billing"))) as billing,
        service(saying(ok(b"provisioning"))) as provisioning,
        gateway(
            tenant_url=tenant.url,
            customer_url=customer.url,
            billing_url=billing.url,
            provisioning_url=provisioning.url,
        ) as running,
        running.client() as client,
    ):
        for path, name in {
            "/.well-known/jwks.json": "tenant",
            "/api/v1/tenants/1/deployments": "tenant",
            "/api/v1/deploy": "tenant",
            "/api/v1/deployments": "provisioning",
            "/api/v1/customers": "customer",
            "/api/v1/invoices?period=2026-11": "billing",
            "/api/v1/%70lans/1": "billing",
        }.items():
            async with client.get(URL(path, encoded=True)) as response:
                assert await response.text() == name, path
        for path in ("/api/v1/plansets", "/api/v1", "/api/v2/plans", "/x"):
            async with client.get(URL(path, encoded=True)) as response:
                await problem(response, 404, "not-found")
        async with client.get(URL("/api/v1%2Fplans", encoded=True)) as response:
            await problem(response, 400, "malformed-path")
        async with client.post("/docs") as response:
            await problem(response, 405, "method-not-allowed")
            assert response.headers["Allow"] == "GET, HEAD"


async def test_bodies_stream_both_ways_at_once() -> None:
    arrived = asyncio.Event()

    async def echo(_service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while size := int(await reader.readline(), 16):
            piece = await reader.readexactly(size + 2)
            arrived.set()
            writer.write(b"%x\r\n%b" % (size, piece))
        await reader.readline()
        writer.write(b"0\r\n\r\n")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        # Only a gateway that passes the first piece on before it has the second gets beyond this.
        async with asyncio.timeout(10):
            await arrived.wait()
        yield b"second"

    async with (
        service(echo) as upstream,
        gateway(customer_url=upstream.url) as running,
        running.client() as client,
        client.post(PATH, data=pieces()) as response,
    ):
        assert await response.read() == b"firstsecond"


async def test_events_pass_as_they_come() -> None:
    go_on = asyncio.Event()

    async def events(_service: Service, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"9\r\ndata: 1\n\n\r\n")
        await go_on.wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    async with (
        service(events) as upstream,
        gateway(customer_url=upstream.url) as running,
        running.client() as client,
        client.get(PATH) as response,
        asyncio.timeout(10),
    ):
        assert await response.content.readexactly(9) == b"data: 1\n\n"
        go_on.set()
        assert await response.content.read() == b"data: 2\n\n"


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


async def ticking(_service: Service, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with a piece now and then, without end."""
    writer.write(HEAD)
    while not writer.is_closing():
        writer.write(b"3\r\n:\n\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def test_streams_last_and_are_counted_by_tenant_and_not_among_what_is_under_way() -> None:
    async with (
        service(ticking) as upstream,
        gateway(
            integration_url=upstream.url, tenant_streams=3, streams=4, concurrency=2, upstream_seconds=2
        ) as running,
        running.client() as client,
        running.client(ISSUER.issue("x", new_id(), ["events:read"])) as another,
        asyncio.timeout(20),
    ):
        streams = [await client.get(FEED) for _ in range(3)]
        assert [stream.status for stream in streams] == [200, 200, 200]
        async with client.get(FEED) as response:
            await problem(response, 429, "too-many-streams")
            assert response.headers["Retry-After"] == "10"
        # Another tenant's are its own, and there is an end to all of them together.
        fourth = await another.get(FEED)
        assert fourth.status == 200
        async with another.get(FEED) as response:
            await problem(response, 503, "overloaded")
        # Longer than a service may be silent: each piece begins its time anew.
        for _ in range(60):
            assert await streams[0].content.readexactly(3) == b":\n\n"
        streams.pop().close()
        status = 429
        while status != 200:  # the gateway learns of it in its own time
            response = await client.get(FEED)
            status = response.status
            streams.append(response) if status == 200 else await response.read()
        for stream in (*streams, fourth):
            stream.close()


async def test_a_gateway_that_stops_ends_its_streams_as_if_they_were_complete() -> None:
    answer: aiohttp.ClientResponse | None = None
    async with service(ticking) as upstream, aiohttp.ClientSession() as client:
        async with gateway(integration_url=upstream.url) as running:
            answer = await client.get(f"{running.url}{FEED}", headers={"Authorization": f"Bearer {token()}"})
            assert await answer.content.readexactly(3) == b":\n\n"
            began = time.monotonic()
        assert time.monotonic() - began < 5
        rest = await answer.read()  # raises where an answer is broken off
        assert len(rest) % 3 == 0


async def test_a_stream_that_its_service_breaks_off_is_broken_off() -> None:
    async def breaking(_service: Service, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"3\r\n:\n\n\r\n")
        await writer.drain()
        writer.close()

    async with (
        service(breaking) as upstream,
        gateway(integration_url=upstream.url, tenant_streams=1) as running,
        running.client() as client,
    ):
        for _ in range(3):  # and is no more counted
            async with client.get(FEED) as response:
                assert response.status == 200
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()


async def test_what_a_client_does_not_read_is_not_read_from_the_service() -> None:
    size, taken = 64 * 1024 * 1024, 0

    async def much(_service: Service, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while taken < size:
            writer.write(b"x" * 65536)
            await writer.drain()
            taken += 65536

    async with service(much) as upstream, gateway(customer_url=upstream.url) as running:
        reader, writer = await running.raw(head("GET", PATH))
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while taken != before:  # until nothing moves any more
            before = taken
            await asyncio.sleep(0.3)
        assert taken < size / 2  # what the kernel's buffers and one of ours hold
        body = 0
        while body < size:
            body += len(await reader.read(1 << 20))
        assert body == size
        writer.close()


async def test_what_a_service_does_not_read_is_not_read_from_the_client() -> None:
    go_on = asyncio.Event()
    size = 64 * 1024 * 1024

    async def late(_service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        left = size
        while left:
            left -= len(await reader.read(1 << 20))
        writer.write(ok(b"all of it"))

    async with service(late) as upstream, gateway(customer_url=upstream.url) as running:
        path = "/api/v1/customers/imports"
        reader, writer = await running.raw(head("POST", path, [("content-length", str(size))]))
        sent = 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    writer.write(b"x" * 65536)
                    sent += 65536
                    await writer.drain()
        assert sent < size / 2
        go_on.set()
        writer.write(b"x" * (size - sent))
        answer = await reader.readuntil(b"all of it")
        assert answer.startswith(b"HTTP/1.1 200")
        writer.close()


async def test_an_encoded_body_a_redirect_and_a_cookie_are_the_clients_affair() -> None:
    encoded = ok(b"not really gzip", "Content-Encoding: gzip", "Set-Cookie: session=1; Path=/")
    elsewhere = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
    async with service(saying(encoded, elsewhere)) as upstream, gateway(customer_url=upstream.url) as running:
        async with running.client() as client, client.get(PATH) as response:
            assert await response.read() == b"not really gzip"
            assert response.headers["Content-Encoding"] == "gzip"
        async with running.client() as client, client.get(PATH, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (302, "/elsewhere")
        assert len(upstream.asked) == 2
        assert all(asked.all("cookie") == [] for asked in upstream.asked)


async def test_answers_without_a_body_have_none() -> None:
    answers = (
        b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n",  # to HEAD
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b'HTTP/1.1 304 Not Modified\r\netag: "1"\r\n\r\n',
        ok(b"in full"),
    )
    async with service(saying(*answers)) as upstream, gateway(customer_url=upstream.url) as running:
        reader, writer = await running.raw(b"")
        for method, status in (("HEAD", b"200"), ("GET", b"204"), ("GET", b"304")):
            writer.write(head(method, PATH))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.split(b" ", 2)[1] == status
            assert b"chunked" not in answer
        writer.write(head("GET", PATH))
        assert b"content-length: 7" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(7) == b"in full"
        writer.close()
        assert upstream.connections == 1


async def test_a_body_that_ends_with_its_connection_is_passed_on_whole() -> None:
    async def until_closed(_service: Service, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
        writer.close()

    async with service(until_closed) as upstream, gateway(customer_url=upstream.url) as running:
        async with running.client() as client, client.get(PATH) as response:
            assert await response.read() == b"until the end"
            assert response.headers["Transfer-Encoding"] == "chunked"
        # HTTP/1.0 knows no chunks: there the client's connection ends the body.
        reader, writer = await running.raw(head("GET", PATH).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await reader.read()
        assert answer.endswith(b"\r\n\r\nuntil the end")
        assert b"connection: close" in answer
        writer.close()


async def test_interim_answers_and_trailers_stay_behind() -> None:
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n"
    )

    async def reads_all(made: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(answer)

    async with service(reads_all) as upstream, gateway(customer_url=upstream.url) as running:
        reader, writer = await running.raw(
            head("GET", PATH, [("transfer-encoding", "chunked")]) + b"0\r\nx-smuggled: 1\r\n\r\n"
        )
        said = await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        assert said.count(b"HTTP/1.1") == 1
        assert not {b"link", b"x-trailer"} & set(said.replace(b":", b" ").split())
        assert upstream.asked[0].all("x-smuggled") == []


async def test_requests_in_a_row_are_answered_in_their_order() -> None:
    answers = [ok(str(i).encode()) for i in range(5)]
    async with service(saying(*answers)) as upstream, gateway(customer_url=upstream.url) as running:
        # Some for the service, some for the gateway itself, some refused: all in one packet.
        live = head("GET", "/health/live")
        refused = head("GET", PATH, bearer="none")
        reader, writer = await running.raw((head("GET", PATH) + live + refused) * 5)
        for i in range(5):
            for expected in (str(i).encode(), b"alive", b"invalid-token"):
                answer = await reader.readuntil(b"\r\n\r\n")
                length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                assert expected in await reader.readexactly(length)
        writer.close()
        assert upstream.connections == 1


async def test_a_thousand_refused_requests_in_a_row() -> None:
    async with gateway() as running:
        reader, writer = await running.raw(b"GET /api/v1/plans HTTP/1.1\r\nhost: x\r\n\r\n" * 1000)
        for _ in range(1000):
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 401")
            await reader.readexactly(int(answer.split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.close()


async def test_connections_to_a_service_are_kept_and_shared() -> None:
    async with service(saying(ok())) as upstream, gateway(customer_url=upstream.url) as running:
        for _ in range(3):
            async with running.client() as client, client.get(PATH) as response:
                assert response.status == 200
        assert upstream.connections == 1


# Who may pass


async def test_connections_without_work_are_given_up_before_a_service_that_stops_would_close_them() -> None:
    async with service(saying(ok(b"x"))) as upstream, gateway(customer_url=upstream.url) as running:
        async with running.client() as client:
            for path, status in ((PATH, 200), ("/health/ready", 503)):  # the others are not there
                async with client.get(path) as response:
                    assert response.status == status
        assert upstream.tasks

        async def given_up() -> bool:
            return not upstream.tasks

        # One that is to stop closes, in the end, whatever is left: and what is sent at that moment is lost.
        await eventually(given_up, seconds=Settings().drain_seconds - 1)


async def test_only_a_valid_token_passes() -> None:
    stranger = TokenIssuer("another secret of the tests that is long enough")
    bad = {
        "invalid-token": [
            "nonsense",
            "é" * 20,
            token()[:-4],
            stranger.issue("somebody", PLATFORM_TENANT, []),
            ISSUER.issue("somebody", PLATFORM_TENANT, [], ttl=timedelta(seconds=-60)),
        ],
        "missing-token": [""],
    }
    async with (
        service(saying(ok())) as upstream,
        gateway(tenant_url=upstream.url) as running,
        aiohttp.ClientSession(running.url) as client,
    ):
        for slug, tokens in bad.items():
            for bearer in tokens:
                headers = {"Authorization": f"Bearer {bearer}"}
                async with client.get("/api/v1/tenants", headers=headers) as response:
                    await problem(response, 401, slug)
                    assert response.headers["WWW-Authenticate"] == "Bearer"
        async with client.get("/api/v1/tenants", headers={"Authorization": "Basic eDp5"}) as response:
            await problem(response, 401, "missing-token")
        assert upstream.asked == []
        async with client.post("/api/v1/auth/token", data=b"x") as response:
            assert response.status == 200
        for scheme in ("Bearer", "bearer", "BEARER  "):
            async with client.get("/api/v1/tenants", headers={"Authorization": f"{scheme} {token()}"}) as response:
                assert response.status == 200


async def test_a_remembered_token_passes_no_longer_than_it_is_valid() -> None:
    bearer = ISSUER.issue("somebody", PLATFORM_TENANT, [], ttl=timedelta(seconds=1))
    async with (
        service(saying(ok())) as upstream,
        gateway(customer_url=upstream.url) as running,
        running.client(bearer) as client,
        asyncio.timeout(20),
    ):
        async with client.get(PATH) as response:
            assert response.status == 200
        while True:
            async with client.get(PATH) as response:
                if response.status == 401:
                    break
            await asyncio.sleep(0.1)


# How much, and how often


async def test_a_body_over_the_limit_is_refused_with_and_without_a_length() -> None:
    async def take(_service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(ok())

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"x" * 1000

    async with (
        service(take) as upstream,
        gateway(customer_url=upstream.url, largest_body=100_000) as running,
        running.client() as client,
    ):
        async with client.post(PATH, data=b"x" * 100_001) as response:
            await problem(response, 413, "body-too-large")
        assert upstream.asked == []
        async with client.post(PATH, data=pieces()) as response:
            await problem(response, 413, "body-too-large")


async def test_who_asks_before_sending_is_told_before_sending() -> None:
    async def take(_service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(ok())

    expects = ("expect", "100-continue")
    async with service(take) as upstream, gateway(customer_url=upstream.url) as running:
        reader, writer = await running.raw(head("POST", PATH, [expects, ("content-length", "4")]))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()
        assert upstream.asked[0].all("expect") == []
        reader, writer = await running.raw(head("POST", PATH, [expects, ("content-length", str(1 << 40))]))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
        writer.close()


async def test_two_lengths_are_not_a_request() -> None:
    async with service(saying(ok())) as upstream, gateway(customer_url=upstream.url) as running:
        for fields in (
            [("content-length", "5"), ("transfer-encoding", "chunked")],
            [("content-length", "5"), ("content-length", "6")],
            [("transfer-encoding", "chunked, identity")],
        ):
            reader, writer = await running.raw(head("POST", PATH, fields) + b"0\r\n\r\nGET /")
            assert (await reader.read()).startswith(b"HTTP/1.1 400")
            writer.close()
        assert upstream.asked == []


@pytest.mark.parametrize(
    ("setting", "policy", "path"),
    [
        ("rate_limit", "principal", PATH),
        ("tenant_rate_limit", "tenant", PATH),
        ("address_rate_limit", "address", PATH),
        ("public_rate_limit", "public", "/.well-known/jwks.json"),
        ("sign_up_rate_limit", "sign-up", "/api/v1/auth/sign-ups"),
    ],
)
async def test_too_many_requests_are_429_until_there_is_room_again(setting: str, policy: str, path: str) -> None:
    async with service(saying(ok())) as upstream:
        urls = {"customer_url": upstream.url, "tenant_url": upstream.url}
        async with gateway(**urls, **{setting: "3/minute"}) as running, running.client() as client:
            for remaining in (2, 1, 0):
                async with client.get(path) as response:
                    assert response.status == 200
                    assert f'"{policy}";q=3;w=60' in response.headers["RateLimit-Policy"]
                    assert f'"{policy}";r={remaining}' in response.headers["RateLimit"]
            async with client.get(path) as response:
                body = await problem(response, 429, "rate-limited")
                assert body["violated_policies"] == [policy]
                assert 1 <= int(response.headers["Retry-After"]) <= 20
                assert f'"{policy}";r=0' in response.headers["RateLimit"]
        assert len(upstream.asked) == 3
        async with (
            gateway(**urls, **{setting: "5/second"}) as running,
            running.client() as client,
            asyncio.timeout(30),
        ):
            refused = 0
            while refused < 3:
                async with client.get(path) as response:
                    if response.status == 429:
                        refused += 1
                        await asyncio.sleep(int(response.headers["Retry-After"]))
                        async with client.get(path) as later:
                            assert later.status == 200


async def test_limits_hold_against_each_by_itself() -> None:
    async with (
        service(saying(ok())) as upstream,
        gateway(customer_url=upstream.url, rate_limit="1/minute") as running,
    ):
        for who in ("one", "two"):
            async with running.client(token(who)) as client:
                for status in (200, 429):
                    async with client.get(PATH) as response:
                        assert response.status == status


async def test_behind_trusted_proxies_the_address_is_the_clients() -> None:
    async with service(saying(ok())) as upstream:
        settings = {"tenant_url": upstream.url, "public_rate_limit": "1/minute"}
        path = "/.well-known/jwks.json"
        async with (
            gateway(**settings, trusted_proxies="127.0.0.0/8, 10.1.1.1") as running,
            aiohttp.ClientSession(running.url) as client,
        ):
            for forwarded, status in (
                ("1.1.1.1", 200),
                ("1.1.1.1", 429),
                ("6.6.6.6, 1.1.1.1, 10.1.1.1", 429),  # what a client puts before its address does not help
                ("2.2.2.2", 200),
                ("2001:db8::1", 200),
                ("2001:db8::2", 429),  # the same /64
            ):
                async with client.get(path, headers={"X-Forwarded-For": forwarded}) as response:
                    assert response.status == status, forwarded
        async with gateway(**settings) as running, aiohttp.ClientSession(running.url) as client:
            for forwarded, status in (("1.1.1.1", 200), ("2.2.2.2", 429)):
                async with client.get(path, headers={"X-Forwarded-For": forwarded}) as response:
                    assert response.status == status, forwarded


# What may break


async def test_a_service_that_is_away_is_502_at_once() -> None:
    async with (
        gateway(customer_url=f"http://127.0.0.1:{free_port()}") as running,
        running.client() as client,
        asyncio.timeout(5),
        client.get(PATH) as response,
    ):
        await problem(response, 502, "bad-gateway")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        ok() + ok(),
    ],
)
async def test_a_service_that_gives_no_answer_is_502(answer: bytes) -> None:
    async with service(saying(answer)) as upstream, gateway(customer_url=upstream.url) as running:
        async with running.client() as client, client.post(PATH) as response:
            await problem(response, 502, "bad-gateway")
        assert len(upstream.asked) == 1


async def never(_service: Service, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def test_a_service_that_takes_too_long_is_504() -> None:
    async with service(never) as upstream, gateway(customer_url=upstream.url, upstream_seconds=0.3) as running:
        async with running.client() as client, asyncio.timeout(5), client.get(PATH) as response:
            await problem(response, 504, "gateway-timeout")
        assert 0 < int(upstream.asked[0].all(DEADLINE)[0]) <= 300


async def test_a_client_may_ask_for_less_time_but_not_for_more() -> None:
    async with (
        service(never) as upstream,
        gateway(customer_url=upstream.url, upstream_seconds=5) as running,
        running.client() as client,
        asyncio.timeout(4),
        client.get(PATH, headers={DEADLINE: "150"}) as response,
    ):
        await problem(response, 504, "gateway-timeout")
    async with service(saying(ok())) as upstream, gateway(customer_url=upstream.url, upstream_seconds=5) as running:
        async with running.client() as client:
            for given in ("60000", "soon", "-1"):
                async with client.get(PATH, headers={DEADLINE: given}) as response:
                    assert response.status == 200
        assert all(0 < int(asked.all(DEADLINE)[0]) <= 5000 for asked in upstream.asked)


@pytest.mark.parametrize("framing", [b"content-length: 100", b"transfer-encoding: chunked"])
async def test_an_answer_that_breaks_off_is_not_taken_for_whole(framing: bytes) -> None:
    async def breaks_off(_service: Service, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n4\r\nhalf\r\n")
        await writer.drain()
        writer.close()

    async with (
        service(breaks_off) as upstream,
        gateway(customer_url=upstream.url) as running,
        running.client() as client,
        client.get(PATH) as response,
    ):
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_an_answer_that_stops_is_broken_off() -> None:
    async def stops(_service: Service, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await asyncio.Event().wait()

    async with (
        service(stops) as upstream,
        gateway(customer_url=upstream.url, upstream_seconds=1) as running,
        running.client() as client,
        asyncio.timeout(15),
        client.get(PATH) as response,
    ):
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


@pytest.mark.parametrize(
    ("method", "body", "first", "gives", "asked", "status"),
    [
        # An idle connection that the service closed: a request that changes nothing twice is sent again.
        ("GET", None, True, b"", 3, 200),
        ("DELETE", None, True, b"", 3, 200),
        ("PUT", b"x", True, b"", 2, 502),  # its body is gone
        ("POST", None, True, b"", 2, 502),
        ("PATCH", None, True, b"", 2, 502),
        ("GET", None, True, b"HTTP/1.1 2", 2, 502),  # it had begun to answer
        ("GET", None, False, b"", 1, 502),  # a fresh connection: it is not that it was idle
    ],
)
async def test_what_is_asked_once_more(
    method: str, body: bytes | None, first: bool, gives: bytes, asked: int, status: int
) -> None:
    turn = 0

    async def answer(_service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        turn += 1
        if turn == (2 if first else 1):
            writer.write(gives)
            writer.close()
        else:
            writer.write(ok())

    async with service(answer) as upstream, gateway(customer_url=upstream.url) as running, running.client() as client:
        if first:
            async with client.get(PATH) as response:
                assert response.status == 200
        async with client.request(method, PATH, data=body) as response:
            if status == 200:
                assert await response.text() == "ok"
            else:
                await problem(response, status, "bad-gateway")
        assert len(upstream.asked) == asked


@pytest.mark.parametrize("begun", [True, False])
async def test_the_service_is_let_go_when_the_client_leaves(begun: bool) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def endless(_service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if begun:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        entered.set()
        assert await reader.read() == b""
        left.set()

    async with service(endless) as upstream, gateway(customer_url=upstream.url) as running:
        _, writer = await running.raw(head("GET", PATH))
        async with asyncio.timeout(10):
            await entered.wait()
            writer.close()
            await left.wait()


async def test_a_request_under_way_is_answered_when_the_gateway_stops() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def late(_service: Service, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        entered.set()
        await leave.wait()
        writer.write(ok(b"in time"))

    async with service(late) as upstream:
        async with gateway(customer_url=upstream.url) as running:
            reader, writer = await running.raw(head("GET", PATH))
            await entered.wait()
            asyncio.get_running_loop().call_later(0.3, leave.set)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        assert answer.endswith(b"in time")
        writer.close()


# More than it can bear


async def test_overload_is_shed_and_passes() -> None:
    leave = asyncio.Event()

    async def wait(_service: Service, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await leave.wait()
        writer.write(ok())

    async with (
        service(wait) as upstream,
        gateway(customer_url=upstream.url, billing_url=upstream.url, concurrency=4) as running,
        running.client() as client,
    ):

        async def ask() -> int:
            async with client.get(PATH) as response:
                if response.status != 200:
                    await problem(response, 503, "overloaded")
                    assert response.headers["Retry-After"] == "1"
                return response.status

        tasks = [asyncio.create_task(ask()) for _ in range(40)]
        async with asyncio.timeout(10):
            # Refused at once: nobody waits for the four that have reached the service.
            while sum(task.done() for task in tasks) < 36 or len(upstream.asked) < 4:
                await asyncio.sleep(0.01)
        assert len(upstream.asked) == 4
        other = asyncio.create_task(client.get("/api/v1/plans").__aenter__())
        while len(upstream.asked) < 5:  # another service is not concerned
            await asyncio.sleep(0.01)
        leave.set()
        statuses = await asyncio.gather(*tasks)
        assert (statuses.count(200), statuses.count(503)) == (4, 36)
        assert (await other).status == 200
        assert await ask() == 200


async def test_a_service_that_fails_again_and_again_is_left_alone_then_probed() -> None:
    well, others_came = False, asyncio.Event()

    async def answer(_service: Service, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if well:
            await others_came.wait()
            writer.write(ok())
        else:
            writer.close()

    async with (
        service(answer) as upstream,
        gateway(customer_url=upstream.url, breaker_failures=3, breaker_seconds=1) as running,
        running.client() as client,
    ):
        for _ in range(3):
            async with client.get(PATH) as response:
                await problem(response, 502, "bad-gateway")
        for _ in range(10):
            async with client.get(PATH) as response:
                await problem(response, 503, "unavailable")
                assert int(response.headers["Retry-After"]) >= 1
        assert len(upstream.asked) == 3

        async def shown() -> bool:
            async with client.get("/metrics") as response:
                return 'dotmac_gateway_circuit_open{service="customer"}' in await response.text()

        async with asyncio.timeout(10):
            while not await shown():  # it is counted several times a second
                await asyncio.sleep(0.05)

        async def status() -> int:
            async with client.get(PATH) as response:
                return response.status

        async def eventually(*expected: int) -> None:
            async with asyncio.timeout(10):
                while await status() not in expected:
                    await asyncio.sleep(0.05)

        await eventually(502)  # the first probe fails, and the pause doubles
        assert await status() == 503
        assert len(upstream.asked) == 4
        well = True

        async def of_eight() -> list[int]:
            """Return what eight are answered that come while one of them, if any, is the probe."""
            others_came.clear()
            tasks = [asyncio.create_task(status()) for _ in range(8)]
            while sum(task.done() for task in tasks) < 7:
                await asyncio.sleep(0.01)
            others_came.set()
            return await asyncio.gather(*tasks)

        async with asyncio.timeout(10):
            while (together := await of_eight()) == [503] * 8:
                await asyncio.sleep(0.05)
        assert sorted(together) == [200] + [503] * 7  # half open: one probe only
        assert await asyncio.gather(*(status() for _ in range(8))) == [200] * 8


async def test_clients_that_a_service_cuts_off_as_too_slow_keep_nobody_else_from_it() -> None:
    async def answer(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if service.asked[-1].line.startswith("POST"):
            await reader.readexactly(1)  # all that its client has sent of the body
            writer.close()
        else:
            writer.write(ok())

    async with (
        service(answer) as upstream,
        gateway(customer_url=upstream.url, breaker_failures=3, breaker_seconds=60) as running,
        running.client() as client,
    ):
        for _ in range(6):
            reader, writer = await running.raw(head("POST", PATH, [("content-length", "1000")]) + b"x")
            async with asyncio.timeout(10):
                assert b" 502 " in await reader.readline()
            writer.close()
        async with client.get(PATH) as response:
            assert response.status == 200


# Its own pages


async def test_the_documentation_is_served_to_be_kept_and_packed() -> None:
    async with gateway() as running, aiohttp.ClientSession(running.url, auto_decompress=False) as client:
        async with client.get("/docs") as response:
            page = await response.text()
            assert response.content_type == "text/html"
            assert response.headers["Cache-Control"] == "no-cache"
            assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        (script,) = re.findall(r'src="([^"]+swagger-ui-bundle.js)"', page)
        packed = {"Accept-Encoding": "gzip"}
        async with client.get(script, headers={"Accept-Encoding": "identity"}) as response:
            plain = await response.read()
            assert response.content_type == "text/javascript"
            assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert "Content-Encoding" not in response.headers
        async with client.get(script, headers=packed) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert response.headers["Vary"] == "Accept-Encoding"
            assert gzip.decompress(await response.read()) == plain
            etag = response.headers["ETag"]
        async with client.get(script, headers={**packed, "If-None-Match": f'"x", {etag}'}) as response:
            assert (response.status, await response.read()) == (304, b"")
        async with client.head(script, headers=packed) as response:
            assert response.status == 200
        async with client.get("/docs/assets/x/swagger-ui-bundle.js") as response:
            await problem(response, 404, "not-found")


async def test_a_document_that_is_missing_is_named() -> None:
    async with service(saying(ok(b'{"paths": {}}', "content-type: application/json"))) as upstream:
        urls = {f"{name}_url": upstream.url for name in SERVICES}
        async with gateway(**urls) as running, aiohttp.ClientSession(running.url) as client:
            # However many ask, the services are asked once.
            answers = await asyncio.gather(*(client.get("/openapi.json") for _ in range(10)))
            assert {response.status for response in answers} == {200}
            assert len(upstream.asked) == len(SERVICES)
            for response in answers:
                response.release()
        urls["billing_url"] = f"http://127.0.0.1:{free_port()}"
        async with gateway(**urls) as running, aiohttp.ClientSession(running.url) as client:
            async with client.get("/openapi.json") as response:
                body = await problem(response, 503, "unavailable")
                assert "billing" in str(body["detail"])
            async with client.get("/health/ready") as response:
                assert response.status == 503
