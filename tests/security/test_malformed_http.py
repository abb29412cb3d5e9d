"""Malformed, oversized and slow HTTP over raw sockets: refused cheaply, at the gateway and at a service itself."""

import asyncio
import gzip
import json
import time
import zlib
from contextlib import AsyncExitStack

import pytest

from chassis.http import server
from deploy.stack.stack import Stack
from tests.api import Api
from tests.conftest import Tenant
from tests.security.wire import Wire, connected, exchange, head, request, resident

V1 = "/api/v1"
TARGETS = ("gateway", "customer")
MEGABYTE = 1024 * 1024
# Python keeps what it once had, so a process may grow by about its largest requests, and not by what it refused.
GROWTH = 48 * MEGABYTE

GET = f"GET {V1}/customers HTTP/1.1"
POST = f"POST {V1}/customers HTTP/1.1"
HOST = "Host: api.example"


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize(
    "octets",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,  # a TLS greeting
        b"\x00" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET /api/v1/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET api/v1/customers HTTP/1.1\r\nHost: a\r\n\r\n",
        head(GET, []),
        head(GET, [HOST, "Host: other.example"]),
        head(GET, [HOST, "X : space before the colon"]),
        head(GET, [HOST, "X: a", " folded"]),
        head(GET, [HOST, "X: a\x00b"]),
        head(GET, [HOST, "No colon"]),
        head(POST, [HOST, "Content-Length: 5", "Transfer-Encoding: chunked"]) + b"0\r\n\r\n",
        head(POST, [HOST, "Content-Length: 5", "Content-Length: 6"]) + b"hello!",
        head(POST, [HOST, "Content-Length: -1"]),
        head(POST, [HOST, "Content-Length: 0x10"]),
        head(POST, [HOST, "Content-Length: +5"]) + b"hello",
        head(POST, [HOST, "Transfer-Encoding: chunked, identity"]) + b"0\r\n\r\n",
        head(POST, [HOST, "Transfer-Encoding: xchunked"]) + b"0\r\n\r\n",
    ],
    ids=lambda octets: repr(octets[:60]),
)
async def test_what_is_not_http_is_refused_and_the_connection_closed(stack: Stack, target: str, octets: bytes) -> None:
    async with connected(stack.url(target)) as wire:
        await wire.send(octets)
        reply = await wire.reply()
        assert (reply.status, reply.kind) == (400, "malformed-request")
        assert await wire.closed(5)


@pytest.mark.parametrize("chunk", [b"xyz\r\n", b"-1\r\n", b"f" * 20 + b"\r\n", b"5\r\nhelloX"])
async def test_a_broken_chunk_ends_the_connection(stack: Stack, tenant: Tenant, target: str, chunk: bytes) -> None:
    async with connected(stack.url(target)) as wire:
        fields = [HOST, f"Authorization: Bearer {tenant.api.token}", "Transfer-Encoding: chunked"]
        await wire.send(head(POST, [*fields, "Content-Type: application/json"]), chunk)
        assert await wire.closed(10)


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (head(f"GET /{'a' * 9000} HTTP/1.1", [HOST]), 414),
        (head(f"GET {V1}/customers?q={'a' * 9000} HTTP/1.1", [HOST]), 414),
        (head(GET, [HOST, *(f"X-{number}: {number}" for number in range(200))]), 431),
        (head(GET, [HOST, f"Cookie: {'c' * 40_000}"]), 431),
    ],
    ids=["path", "query", "many headers", "long header"],
)
async def test_a_head_that_is_too_large_is_refused(stack: Stack, target: str, octets: bytes, status: int) -> None:
    reply = await exchange(stack.url(target), octets)
    assert reply.status == status
    assert reply.kind in ("uri-too-long", "request-header-fields-too-large")


async def test_a_flood_of_headers_that_never_ends_is_cut_off_and_leaves_no_memory(stack: Stack, target: str) -> None:
    before = resident(stack.children[target].pid)
    started = time.monotonic()

    async def flood(line: bytes) -> None:
        async with connected(stack.url(target)) as wire:
            await wire.send(head(GET, [HOST])[:-2], *[line] * 400)
            assert await wire.closed(10)

    await asyncio.gather(*(flood(line) for line in (b"X" * 65536, b"X: 1\r\n" * 10_000) for _ in range(20)))
    assert time.monotonic() - started < 60
    assert resident(stack.children[target].pid) - before < GROWTH


async def test_slow_clients_are_cut_off_and_hold_nobody_up(stack: Stack, tenant: Tenant, target: str) -> None:
    url = stack.url(target)
    before = resident(stack.children[target].pid)
    body = [HOST, f"Authorization: Bearer {tenant.api.token}", "Content-Type: application/json"]

    async def drip(wire: Wire, octets: bytes) -> None:
        for octet in octets:
            await wire.send(bytes([octet]))
            await asyncio.sleep(0.5)

    async with AsyncExitStack() as several:
        silent = [await several.enter_async_context(connected(url)) for _ in range(100)]
        heads = [await several.enter_async_context(connected(url)) for _ in range(100)]
        bodies = [await several.enter_async_context(connected(url)) for _ in range(100)]
        for wire in bodies:
            await wire.send(head(POST, [*body, "Content-Length: 1000"]))
        drips = [asyncio.create_task(drip(wire, head(GET, [HOST, "X: " + "y" * 500]))) for wire in heads]
        drips += [asyncio.create_task(drip(wire, b"{" + b" " * 900)) for wire in bodies]
        try:
            started = time.monotonic()
            reply = await exchange(url, request("GET", f"{V1}/customers", tenant.api.token))
            assert (reply.status, time.monotonic() - started < 5) == (200, True)
            patience = 3 * max(server.HEAD_SECONDS, server.BODY_TICK_SECONDS)
            closed = await asyncio.gather(*(wire.closed(patience) for wire in [*silent, *heads, *bodies]))
            assert all(closed)
        finally:
            for task in drips:
                task.cancel()
            await asyncio.gather(*drips, return_exceptions=True)
    assert resident(stack.children[target].pid) - before < GROWTH


async def test_a_body_that_is_too_large_is_refused_before_it_comes(stack: Stack, tenant: Tenant, target: str) -> None:
    fields = {"Content_Type": "application/json", "Content_Length": str(10**12), "Expect": "100-continue"}
    octets = request("POST", f"{V1}/customers", tenant.api.token, **fields)
    reply = await exchange(stack.url(target), octets)
    assert (reply.status, reply.kind) == (413, "body-too-large")
    imports = request("POST", f"{V1}/customers/imports", tenant.api.token, **{**fields, "Content_Type": "text/csv"})
    reply = await exchange(stack.url(target), imports)
    assert (reply.status, reply.kind) == (413, "body-too-large")


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_without_a_length_and_without_an_end_is_cut_off(
    stack: Stack, tenant: Tenant, target: str, kind: str
) -> None:
    before = resident(stack.children[target].pid)
    fields = {"Content_Type": kind, "Transfer_Encoding": "chunked"}
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"

    async def flood() -> None:
        async with connected(stack.url(target)) as wire:
            await wire.send(request("POST", f"{V1}/customers", tenant.api.token, **fields), *[chunk] * 200)
            assert (await wire.reply()).status in (0, 413)

    await asyncio.gather(*(flood() for _ in range(10)))
    assert resident(stack.children[target].pid) - before < GROWTH


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip"])
async def test_packed_bodies_are_refused_unopened(stack: Stack, tenant: Tenant, target: str, coding: str) -> None:
    before = resident(stack.children[target].pid)
    bomb = gzip.compress(bytes(200 * MEGABYTE), 9) if "gzip" in coding else zlib.compress(bytes(100 * MEGABYTE), 9)
    for path, kind in ((f"{V1}/customers", "application/json"), (f"{V1}/customers/imports", "text/csv")):
        fields = {"Content_Encoding": coding, "Content_Type": kind}
        reply = await exchange(stack.url(target), request("POST", path, tenant.api.token, bomb, **fields))
        assert (reply.status, reply.kind) == (415, "unsupported-content-encoding")
        assert reply.headers["accept-encoding"] == "identity"
    assert resident(stack.children[target].pid) - before < GROWTH


@pytest.mark.parametrize(
    "path",
    [
        "/customers/..%2fimports",
        "/customers/%2e%2e/workspace",
        "/customers/../workspace",
        "/customers/./summary",
        "/customers/.",
        "//customers",
        "/customers//summary",
        "/customers/",
        "/customers/%2F",
        "/customers/a%5cb",
        "/customers/a\\b",
        "/customers/%252e%252e%252fworkspace",
        "/customers/%2500",
        "/customers/%00",
        "/customers/%0d%0aX:%201",
        "/customers/%zz",
        "/customers/%",
        "/customers/%ff%fe",
        "/customers/%c0%ae%c0%ae/workspace",
        "/customers/a|b",
        "/customers/<script>",
    ],
)
async def test_a_path_has_one_spelling(stack: Stack, tenant: Tenant, target: str, path: str) -> None:
    reply = await exchange(stack.url(target), request("GET", V1 + path, tenant.api.token))
    assert (reply.status, reply.kind) == (400, "malformed-path")


async def test_a_path_may_be_escaped_where_it_need_not(stack: Stack, tenant: Tenant, target: str) -> None:
    reply = await exchange(stack.url(target), request("GET", "/api/v1/%63ustomers/summar%79", tenant.api.token))
    assert reply.status == 200


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"name": "a", "name": "b"}', "malformed-json"),
        (b'{"name": "a", "na\\u006de": "b"}', "malformed-json"),
        (b'{"name": "a", "x": {"y": 1, "y": 1}}', "malformed-json"),
        (b'{"name": ' + b"[" * 500 + b"]" * 500 + b"}", "malformed-json"),
        (b'{"name": ' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}", "malformed-json"),
        (b"[" * 200_000, "malformed-json"),
        (b'{"a":' * 200_000, "malformed-json"),
        (b'{"name": NaN}', "malformed-json"),
        (b'{"name": -Infinity}', "malformed-json"),
        (b'{"name": ' + b"9" * 10_000 + b"}", "malformed-json"),
        (b"{'name': 'a'}", "malformed-json"),
        (b'{"name": "a",}', "malformed-json"),
        (b'{"name": "a"} {"name": "b"}', "malformed-json"),
        (b'{"name": "\xff"}', "malformed-body"),
        (b'{"name": "\xed\xa0\x80"}', "malformed-body"),
        (b'\xef\xbb\xbf{"name": "a"}', "malformed-json"),
        ('{"name": "a"}'.encode("utf-16"), "malformed-body"),
        ('{"name": "a"}'.encode("utf-32-le"), "malformed-json"),
    ],
    ids=lambda value: repr(value[:40]),
)
async def test_json_that_can_be_read_in_two_ways_or_in_none_is_refused(
    stack: Stack, tenant: Tenant, target: str, body: bytes, kind: str
) -> None:
    octets = request("POST", f"{V1}/customers", tenant.api.token, body, Content_Type="application/json")
    reply = await exchange(stack.url(target), octets)
    assert (reply.status, reply.kind) == (400, kind)


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-16", "application/vnd.x+json", "APPLICATION/JSON"]
)
async def test_json_by_another_name_is_looked_at_as_well(
    stack: Stack, tenant: Tenant, target: str, media_type: str
) -> None:
    body = b'{"name": "a", "name": "b"}'
    octets = request("POST", f"{V1}/customers", tenant.api.token, body, Content_Type=media_type)
    assert (await exchange(stack.url(target), octets)).kind == "malformed-json"


async def test_large_json_is_refused_or_answered_and_leaves_no_memory(
    stack: Stack, tenant: Tenant, target: str
) -> None:
    before = resident(stack.children[target].pid)
    bodies = [
        json.dumps({"name": "x" * (2 * MEGABYTE - 100)}).encode(),
        b'{"name": [' + b"[]," * 600_000 + b"[]]}",
        b'{"name": {' + b",".join(b'"%d":1' % number for number in range(180_000)) + b"}}",
        b'{"name": "' + b"\\u0041" * 300_000 + b'"}',
    ]
    for body in bodies:
        octets = request("POST", f"{V1}/customers", tenant.api.token, body, Content_Type="application/json")
        for reply in await asyncio.gather(*(exchange(stack.url(target), octets) for _ in range(4))):
            assert reply.status == 422, reply
            assert len(reply.body) < 10_000
    # Four at once of 2 MB, each a hundred bytes of Python a byte at worst, and what the allocator keeps of them.
    assert resident(stack.children[target].pid) - before < 256 * MEGABYTE


@pytest.mark.parametrize("limit", ["0", "-1", "201", "1000000000", "99999999999999999999", "1e9", "0x10", "NaN", ""])
async def test_a_page_is_never_huge(stack: Stack, tenant: Tenant, target: str, limit: str) -> None:
    octets = request("GET", f"{V1}/customers?limit={limit}", tenant.api.token)
    reply = await exchange(stack.url(target), octets)
    assert (reply.status, reply.kind) == (422, "invalid-request")


async def test_a_request_hidden_in_anothers_body_is_not_one(stack: Stack, tenant: Tenant, target: str) -> None:
    """A body is a body whatever the method: what follows on the connection is the next request."""
    hidden = request("GET", f"{V1}/nothing", tenant.api.token)
    for method, path, status in (
        ("GET", "customers/summary", 200),
        ("DELETE", "customers", 405),
        ("HEAD", "customers", 405),
    ):
        async with connected(stack.url(target)) as wire:
            first = request(method, f"{V1}/{path}", tenant.api.token, hidden)
            second = request("GET", f"{V1}/workspace", tenant.api.token)
            await wire.send(first + second)
            if method != "HEAD":
                assert (await wire.reply()).status == status
                answer = await wire.reply()
                assert answer.status == 200
                assert json.loads(answer.body)["tenant_id"] == tenant.id
    # Nor on the connections that the gateway keeps to the service, whoever uses them next.
    for _ in range(20):
        reply = await exchange(stack.url(target), request("GET", f"{V1}/workspace", tenant.api.token))
        assert reply.status == 200


async def test_a_trailer_changes_nothing(stack: Stack, target: str, tenant: Tenant) -> None:
    fields = [HOST, "Transfer-Encoding: chunked", "Content-Type: application/json", "Trailer: Authorization"]
    trailer = f"0\r\nAuthorization: Bearer {tenant.api.token}\r\n\r\n".encode()
    body = b'{"name": "Trailed"}'
    reply = await exchange(stack.url(target), head(POST, fields), b"%x\r\n%s\r\n" % (len(body), body), trailer)
    assert (reply.status, reply.kind) == (401, "missing-token")


async def test_all_that_hindered_nobody(stack: Stack, tenant: Tenant, public: Api) -> None:
    """After the attacks of this file both still answer, and have not been started anew."""
    assert (await public.send("GET", "/health/ready")).status == 200
    assert (await tenant.api.send("GET", f"{V1}/customers/summary")).status == 200
