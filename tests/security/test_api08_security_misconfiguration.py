"""API8: headers, errors, origins, secrets, TLS and database roles are as strict as they are said to be."""

import asyncio
import os
import re
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.stack.processes import Child, free_port
from deploy.stack.stack import SERVICES, Stack
from tests.api import Api, eventually
from tests.conftest import PASSWORD, Tenant
from tests.security.wire import exchange, request

V1 = "/api/v1"
ORIGIN = "https://console.example"
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
INSIDE = ("Traceback", ".py", "asyncpg", "postgres", "sqlalchemy", "pydantic", "/work", "/root", "kafka", 'File "')


def assert_guarded(headers: Any) -> None:
    for name, value in HEADERS.items():
        assert headers[name] == value, name
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers
    assert "x-powered-by" not in headers


@pytest.mark.parametrize("place", ["gateway", *SERVICES])
async def test_every_answer_says_what_browsers_may_do_with_it(stack: Stack, tenant: Tenant, place: str) -> None:
    octets = [
        request("GET", "/health/live"),
        request("GET", "/openapi.json"),
        request("GET", "/nothing"),
        request("GET", f"{V1}/customers"),
        request("GET", f"{V1}/customers", tenant.api.token),
        request("POST", f"{V1}/customers", tenant.api.token, b"{", Content_Type="application/json"),
        request("DELETE", f"{V1}/customers", tenant.api.token),
        request("GET", f"{V1}/customers/%2e%2e"),
    ]
    for octet in octets:
        assert_guarded((await exchange(stack.url(place), octet)).headers)


async def test_the_keys_may_be_cached_and_nothing_else(public: Api) -> None:
    assert (await public.send("GET", "/.well-known/jwks.json")).headers["Cache-Control"] == "public, max-age=300"


@pytest.mark.parametrize("path", ["/docs", "/docs/events"])
async def test_a_page_runs_its_own_scripts_and_no_other(public: Api, path: str) -> None:
    answer = await public.send("GET", path)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    page = answer.body.decode()
    assert "<script>" not in page
    assert not re.search(r"\son\w+=", page)
    assert not re.search(r"""(src|href)=["']https?:""", page)


async def test_no_origin_is_allowed_by_default(stack: Stack, tenant: Tenant) -> None:
    for origin in (ORIGIN, "null", "http://127.0.0.1:8000"):
        for octets in (
            request("GET", f"{V1}/customers", tenant.api.token, Origin=origin),
            request("OPTIONS", f"{V1}/customers", Origin=origin, Access_Control_Request_Method="GET"),
        ):
            reply = await exchange(stack.url("gateway"), octets)
            assert not [name for name in reply.headers if name.startswith("access-control-")]


@dataclass(frozen=True)
class Edge:
    """A second gateway, of other settings, before the same services."""

    url: str
    trust: ssl.SSLContext


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, secret = folder / "certificate.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.touch(mode=0o600)
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, secret


@pytest.fixture(scope="module")
async def edge(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """A gateway over TLS that allows one origin."""
    folder = tmp_path_factory.mktemp("edge")
    chain, secret = certificate(folder)
    port = free_port()
    environment = {
        **os.environ,
        **{f"{service.upper()}_URL": stack.url(service) for service in SERVICES},
        "JWKS_URL": f"{stack.url('tenant')}/.well-known/jwks.json",
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
        "PORT": str(port),
        "CORS_ORIGINS": ORIGIN,
        "TLS_CERTIFICATE_FILE": str(chain),
        "TLS_KEY_FILE": str(secret),
    }
    child = Child("edge", [sys.executable, "-m", "gateway"], environment, folder / "edge.log")
    await child.start()
    running = Edge(f"https://127.0.0.1:{port}", ssl.create_default_context(cafile=str(chain)))

    async def answers() -> bool:
        child.raise_if_dead()
        try:
            url = f"{running.url}/health/live"
            async with aiohttp.ClientSession() as session, session.get(url, ssl=running.trust) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    await eventually(answers)
    yield running
    await child.stop()


async def test_over_tls_browsers_are_told_to_stay_with_it(edge: Edge, stack: Stack) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{edge.url}/docs", ssl=edge.trust) as answer:
        assert answer.headers["Strict-Transport-Security"].startswith("max-age=31536000")
    assert "strict-transport-security" not in (await exchange(stack.url("gateway"), request("GET", "/docs"))).headers
    # Nor does anybody get there in the clear, or with an old protocol.
    with pytest.raises(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(edge.url.replace("https", "http")) as answer:
            pass
    old = ssl.create_default_context(cafile=None)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with aiohttp.ClientSession() as session, session.get(f"{edge.url}/docs", ssl=old) as answer:
        assert answer.status == 200


async def test_an_origin_of_the_list_may_call_and_no_other(edge: Edge, tenant: Tenant) -> None:
    path, auth = f"{edge.url}{V1}/customers", {"Authorization": f"Bearer {tenant.api.token}"}
    async with aiohttp.ClientSession() as session:
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"}
        asked["Access-Control-Request-Headers"] = "authorization, if-match, idempotency-key"
        async with session.options(path, headers=asked, ssl=edge.trust) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
            assert "Access-Control-Allow-Credentials" not in answer.headers
        async with session.get(path, headers={"Origin": ORIGIN, **auth}, ssl=edge.trust) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
        for origin in (
            "https://evil.example",
            "null",
            f"{ORIGIN}.evil.example",
            "http://console.example",
            f"{ORIGIN}:444",
        ):
            async with session.get(path, headers={"Origin": origin, **auth}, ssl=edge.trust) as answer:
                assert "Access-Control-Allow-Origin" not in answer.headers, origin
            async with session.options(path, headers={**asked, "Origin": origin}, ssl=edge.trust) as answer:
                assert answer.status == 400
                assert "Access-Control-Allow-Origin" not in answer.headers, origin


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT", "PROPFIND", "DEBUG", "OPTIONS"])
async def test_no_method_does_what_nobody_wrote(stack: Stack, tenant: Tenant, method: str) -> None:
    for place in ("gateway", "customer"):
        octets = request(method, f"{V1}/customers", tenant.api.token, X_Secret="do not echo")
        reply = await exchange(stack.url(place), octets)
        assert reply.status in (400, 405)
        assert b"do not echo" not in reply.body


async def test_errors_tell_nothing_of_the_inside(stack: Stack, tenant: Tenant) -> None:
    token = tenant.api.token
    attempts = [
        request("GET", f"{V1}/customers/not-an-id", token),
        request("GET", f"{V1}/customers?cursor=W10", token),
        request("GET", f"{V1}/customers?status='", token),
        request("GET", f"{V1}/invoices?period=2026-99", token),
        request("POST", f"{V1}/customers", token, b'{"name": {"a": []}}', Content_Type="application/json"),
        request("POST", f"{V1}/customers", token, b"<xml/>", Content_Type="application/xml"),
        request("POST", f"{V1}/customers", token, b"a=b", Content_Type="multipart/form-data; boundary=x"),
        request("POST", f"{V1}/customers/imports", token, b'name\n"', Content_Type="text/csv"),
        request("GET", f"{V1}/customers", "a.b.c"),
        request("GET", "/nothing", token),
    ]
    for place in ("gateway", "customer", "billing"):
        for octets in attempts:
            reply = await exchange(stack.url(place), octets)
            assert 400 <= reply.status < 500 or place == "billing"
            if reply.status >= 400:
                assert reply.kind
                for inside in INSIDE:
                    assert inside.encode() not in reply.body, reply.body


async def test_an_error_that_nobody_foresaw_says_no_more_than_that(stack: Stack, tenant: Tenant) -> None:
    """The database without a table is as unforeseen as can be; the answer is the same as for any other fault."""
    owner = await asyncpg.connect(stack.database_url("customer", "owner"))
    try:
        await owner.execute("alter table workspace rename to workspace_away")
        try:
            for place in ("gateway", "customer"):
                reply = await exchange(stack.url(place), request("GET", f"{V1}/workspace", tenant.api.token))
                assert (reply.status, reply.kind) == (500, "internal-error")
                assert b"workspace_away" not in reply.body
                assert b"relation" not in reply.body
                assert_guarded(reply.headers)
        finally:
            await owner.execute("alter table workspace_away rename to workspace")
    finally:
        await owner.close()


@pytest.mark.parametrize(
    ("service", "changes", "reason"),
    [
        ("tenant", {"ENVIRONMENT": "production"}, "SECRET_KEY must be set outside development"),
        (
            "customer",
            {"ENVIRONMENT": "production", "SECRET_KEY": "s" * 40},
            "JWT_SECRET_KEY must be set outside development",
        ),
        ("billing", {"SECRET_KEY": "short-and-secret"}, "SECRET_KEY needs at least 32 characters"),
        ("provisioning", {"JWT_SECRET_KEY": "short-and-secret"}, "JWT_SECRET_KEY needs at least 32 characters"),
        (
            "billing",
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "billing"},
            "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD are needed",
        ),
    ],
)
async def test_no_service_starts_without_its_secrets(service: str, changes: dict[str, str], reason: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.endswith("SECRET_KEY")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{service}", env={**kept, **changes}, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert reason in errors.decode()
    assert "short-and-secret" not in errors.decode()


async def test_no_secret_is_in_a_log(stack: Stack, tenant: Tenant, public: Api) -> None:
    form = {"username": tenant.administrator, "password": PASSWORD, "tenant": tenant.slug}
    token = (await public.send("POST", f"{V1}/auth/token", form=form)).expect(200)["access_token"]
    (await public.as_(token).send("GET", f"{V1}/customers", params={"q": "x"})).expect(200)
    secrets = [stack.administrator[1], PASSWORD, token, token.rsplit(".", 1)[1], tenant.api.token or "?"]
    secrets += [value for value in stack._secrets.values() if len(value) > 20]
    logs = {path.name: path.read_text(errors="replace") for path in (stack.folder / "logs").glob("*.log")}
    assert '"request"' in logs["gateway.log"]
    for name, text in logs.items():
        for secret in secrets:
            assert secret not in text, f"{name} has a secret"


async def test_the_stacks_files_are_its_owners_alone(stack: Stack) -> None:
    assert stack.folder.stat().st_mode & 0o077 == 0
    for name in ("secrets.json", "state.json"):
        assert (stack.folder / name).stat().st_mode & 0o077 == 0
