"""`python -m bench.gateway`: what the gateway costs, beside nginx as a bare proxy. Loopback only, bounded in time.

Twice: in front of a service that does nothing but answer 1 KB, where the proxy is what is measured, and in front of a
service of ours. nginx passes on and no more; the gateway verifies the token, counts the limits and writes its log. The
load comes from wrk, the CPU time from /proc; the figures are medians of several rounds in turn.
"""

import asyncio
import contextlib
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import aiohttp
import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from bench import bulk
from chassis.ids import PLATFORM_TENANT
from chassis.security.scopes import scopes_of
from chassis.security.tokens import TokenIssuer
from deploy.stack.processes import free_port
from deploy.stack.stack import Stack

ROUNDS = 5
SECONDS = 3
CONNECTIONS = (1, 32)
_TICKS = os.sysconf("SC_CLK_TCK")
_UNLIMITED = dict.fromkeys(
    ("RATE_LIMIT", "TENANT_RATE_LIMIT", "ADDRESS_RATE_LIMIT", "PUBLIC_RATE_LIMIT"), "1000000/second"
)
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
NGINX = "nginx"
"""Set up as well as it can be: it keeps its connections to the service."""
BARE_NGINX = "bare nginx"
"""As a bare `proxy_pass` has it: a connection to the service a request."""
_SECRET = "a secret of the benchmark that is long enough for anybody"
console = Console()


@dataclass(frozen=True)
class Target:
    """Something that answers: where, and the processes whose CPU time it takes."""

    name: str
    url: str
    pids: Sequence[int]


@dataclass(frozen=True)
class Figures:
    """Requests a second, milliseconds, and microseconds of the target's CPU a request."""

    rate: float
    p50: float
    p99: float
    cpu: float


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time that processes have taken, in the kernel and outside."""
    return (
        sum(
            sum(int(field) for field in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])
            for pid in pids
        )
        / _TICKS
    )


async def load(target: Target, path: str, token: str, connections: int) -> Figures:
    """Send requests for a while, and return what came of it; RuntimeError if an answer was not 2xx."""
    before = cpu_seconds(target.pids)
    process = await asyncio.create_subprocess_exec(
        "wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", "-H", f"Authorization: Bearer {token}",
        target.url + path, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said = (await process.communicate())[0].decode()
    spent = cpu_seconds(target.pids) - before
    if process.returncode != 0 or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{target.name} does not answer as it should:\n{said}")
    count = int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]
    p50, p99 = (_milliseconds(said, share) for share in ("50", "99"))
    return Figures(float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), p50, p99, spent / count * 1e6)  # type: ignore[index]


def _milliseconds(said: str, share: str) -> float:
    match = re.search(rf"\b{share}%\s+([\d.]+)(us|ms|s)\b", said)
    assert match is not None, said
    return float(match[1]) * _UNITS[match[2]]


async def compare(title: str, targets: Sequence[Target], path: str, token: str) -> dict[tuple[str, int], Figures]:
    """Measure targets in turn, and print a table of their medians."""
    taken: dict[tuple[str, int], list[Figures]] = {}
    for _ in range(ROUNDS):
        for connections in CONNECTIONS:
            for target in targets:
                figures = await load(target, path, token, connections)
                taken.setdefault((target.name, connections), []).append(figures)
    medians = {
        key: Figures(*(statistics.median(getattr(f, name) for f in of) for name in ("rate", "p50", "p99", "cpu")))
        for key, of in taken.items()
    }
    table = Table(
        "connections", "", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "requests/s : nginx", title=title
    )
    for (name, connections), figures in sorted(medians.items(), key=lambda item: item[0][1]):
        nginx = medians.get((NGINX, connections))
        share = f"{figures.rate / nginx.rate:.2f}" if nginx else ""
        row = (f"{figures.rate:,.0f}", f"{figures.p50:.3f}", f"{figures.p99:.3f}", f"{figures.cpu:.1f}", share)
        table.add_row(str(connections), name, *row)
    console.print(table)
    return medians


def goals(bare: dict[tuple[str, int], Figures], ours: dict[tuple[str, int], Figures]) -> None:
    """Print the ratios that there are goals for."""
    table = Table("what", "figure", "goal", "")
    for connections in CONNECTIONS:
        for peer in (NGINX, BARE_NGINX):
            ratio = bare["gateway", connections].cpu / bare[peer, connections].cpu
            what = f"CPU a request : that of {peer}, {connections} connections"
            table.add_row(what, f"{ratio:.2f}", "≤ 3", "met" if ratio <= 3 else "missed")
    added = bare["gateway", 1].p50 - bare["direct", 1].p50
    table.add_row("p50 added at one connection", f"{added:.3f} ms", "≤ 0.5 ms", "met" if added <= 0.5 else "missed")
    for connections in CONNECTIONS:
        share = ours["gateway", connections].rate / ours[NGINX, connections].rate
        what = f"requests/s : nginx's before our service, {connections} connections"
        table.add_row(what, f"{share:.2f}", "≥ 0.8", "met" if share >= 0.8 else "missed")
    console.print(table)


class Bare(asyncio.Protocol):
    """A service that only answers: 1 KB, or the keys that its tokens are signed with."""

    keys = b""
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1024\r\n\r\n" + b"x" * 1024

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /.well-known/"):
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(self.keys)
            self._transport.write(head + self.keys)
        else:
            self._transport.write(self.answer * data.count(b"\r\n\r\n"))


async def serve_bare(port: int) -> None:
    """Be that service, until the process ends."""
    Bare.keys = orjson.dumps(TokenIssuer(_SECRET).jwks())
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", port)
    await server.serve_forever()


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[int]:
    """Run a program while inside; gives its process id."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **(environment or {})})
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait()


_KEEPING = "keepalive 64; keepalive_requests 1000000000;"
_KEPT = 'proxy_http_version 1.1; proxy_set_header Connection "";'


@contextlib.asynccontextmanager
async def nginx(name: str, upstream: str, folder: Path) -> AsyncIterator[Target]:
    """Run Debian's nginx with one worker, as a proxy that writes no log."""
    port = free_port()
    keeping, kept = (_KEEPING, _KEPT) if name == NGINX else ("", "")
    folder = folder / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    conf = folder / "nginx.conf"
    conf.write_text(
        f"""worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
        events {{ worker_connections 512; }}
        http {{
            access_log off; keepalive_requests 1000000000;
            client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
            uwsgi_temp_path {folder}; scgi_temp_path {folder};
            upstream service {{ server {upstream.removeprefix("http://")}; {keeping} }}
            server {{
                listen 127.0.0.1:{port};
                location / {{ proxy_pass http://service; {kept} }}
            }}
        }}"""
    )
    with running(["nginx", "-c", str(conf)], folder / "nginx.log") as master:
        url = f"http://127.0.0.1:{port}"
        await answers(url)
        yield Target(name, url, children(master))


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def answers(url: str, path: str = "/") -> None:
    """Return once something answers."""
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url + path):
                    return
            await asyncio.sleep(0.05)


async def before_a_bare_service(folder: Path) -> dict[tuple[str, int], Figures]:
    """Measure what the proxies themselves cost."""
    bare, port = f"http://127.0.0.1:{(bare_port := free_port())}", free_port()
    services = dict.fromkeys(("TENANT_URL", "CUSTOMER_URL", "BILLING_URL", "PROVISIONING_URL"), bare)
    environment = {"PORT": str(port), "JWKS_URL": f"{bare}/.well-known/jwks.json", **services, **_UNLIMITED}
    program = f"import asyncio, uvloop, bench.gateway as b; uvloop.run(b.serve_bare({bare_port}))"
    with (
        running([sys.executable, "-c", program], folder / "bare.log") as service,
        running([sys.executable, "-m", "gateway"], folder / "gateway.log", environment) as gateway,
    ):
        url = f"http://127.0.0.1:{port}"
        await answers(bare)
        await answers(url, "/health/live")
        targets = [Target("direct", bare, [service]), Target("gateway", url, [gateway])]
        token = TokenIssuer(_SECRET).issue("bench", PLATFORM_TENANT, scopes_of(("tenant_admin",)))
        async with _with_nginx(targets, bare, folder):
            return await compare("1 KB from a service that only answers", targets, "/api/v1/customers", token)


async def before_our_service(folder: Path) -> dict[tuple[str, int], Figures]:
    """Measure the same before the customer service, on its real database."""
    stack = Stack(
        folder / "stack", any_ports=True, say=lambda text: console.print(f"[dim]{text}[/]"), environment=_UNLIMITED
    )
    async with stack:
        async with bulk.tenant(stack) as (client, tenant_id):
            for number in range(2):
                body = {"external_reference": f"bench-{number}", "name": "Ada Lovelace", "email": "ada@example.com"}
                await client.post("/customers", body)
        issuer = TokenIssuer(stack.jwt_secret_key)
        token = issuer.issue("bench", UUID(tenant_id), scopes_of(("tenant_admin",)))
        targets = [
            Target(label, stack.url(name), [pid])
            for label, name in (("direct", "customer"), ("gateway", "gateway"))
            if (pid := stack.children[name].pid)
        ]
        async with _with_nginx(targets, stack.url("customer"), folder):
            return await compare("about 1 KB from the customer service", targets, "/api/v1/customers?limit=2", token)


@contextlib.asynccontextmanager
async def _with_nginx(targets: list[Target], upstream: str, folder: Path) -> AsyncIterator[None]:
    if shutil.which("nginx") is None:
        console.print("nginx is not installed (Debian's package nginx-light): there is nothing to compare with")
        yield
        return
    async with nginx(NGINX, upstream, folder) as kept, nginx(BARE_NGINX, upstream, folder) as bare:
        targets += kept, bare
        yield


async def main() -> None:
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: the load comes from it (Debian's package wrk)")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="dotmac-bench-") as name:
        folder = Path(name)
        bare = await before_a_bare_service(folder)
        ours = await before_our_service(folder)
    if shutil.which("nginx"):
        goals(bare, ours)
    console.print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.platform()}, "
        f"Python {platform.python_version()}, {time.perf_counter() - started:.0f} s"
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
