"""API2: only a token that the tenant service signed, for here, for now, is believed; by each service itself.

One that was revoked is none: tests/integration/test_revocations.py.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from chassis.ids import PLATFORM_TENANT
from chassis.security.tokens import TokenIssuer
from deploy.stack.stack import SERVICES, Stack
from tests.api import Api
from tests.conftest import PASSWORD, Tenant, registration

V1 = "/api/v1"
# One guarded operation of each service.
GUARDED = {
    "gateway": "/customers",
    "tenant": "/tenants",
    "customer": "/customers",
    "billing": "/plans",
    "provisioning": "/deployments",
    "integration": "/webhook-endpoints",
}


def segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    head, claims, signature = token.split(".")
    decoded = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, claims)]
    return decoded[0], decoded[1], signature


def by_hand(key: ed25519.Ed25519PrivateKey, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """Sign without a library that would refuse what is wrong about it."""
    body = f"{segment(header)}.{segment(claims)}"
    return f"{body}.{base64.urlsafe_b64encode(key.sign(body.encode())).decode().rstrip('=')}"


class Forger:
    """Makes tokens out of a valid one, with what an attacker has: everything but the signing key."""

    def __init__(self, stack: Stack, tenant: Tenant, keys: dict[str, Any]) -> None:
        assert tenant.api.token is not None
        self.token = tenant.api.token
        self.header, self.claims, self.signature = parts(self.token)
        self.public = keys["keys"][0]
        self.issuer = TokenIssuer(stack.jwt_secret_key)

    def signed(self, header: dict[str, Any], **claims: Any) -> str:
        """Sign with the real key, to see that the rest is looked at as well; None takes a claim away."""
        secret = self.issuer._key.as_dict(private=True)["d"]
        key = ed25519.Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(str(secret) + "=="))
        changed = {name: value for name, value in {**self.claims, **claims}.items() if value is not None}
        return by_hand(key, {**self.header, **header}, changed)

    def by_hmac(self, secret: bytes, header: dict[str, Any]) -> str:
        body = f"{segment({**self.header, 'alg': 'HS256', **header})}.{segment(self.claims)}"
        mark = hmac.new(secret, body.encode(), hashlib.sha256).digest()
        return f"{body}.{base64.urlsafe_b64encode(mark).decode().rstrip('=')}"

    def by_another_key(self, *, embedded: bool = False, **header: Any) -> str:
        key = ed25519.Ed25519PrivateKey.generate()
        if embedded:
            raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            header["jwk"] = {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(raw).decode().rstrip("=")}
        named = {name: value for name, value in {**self.header, **header}.items() if value is not None}
        return by_hand(key, named, self.claims)

    @property
    def public_pem(self) -> bytes:
        raw = base64.urlsafe_b64decode(self.public["x"] + "==")
        return ed25519.Ed25519PublicKey.from_public_bytes(raw).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def _rsa(forger: Forger) -> str:
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return jwt.encode({**forger.header, "alg": "RS256"}, forger.claims, RSAKey.import_key(pem), algorithms=["RS256"])


def _ec(forger: Forger) -> str:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return jwt.encode({**forger.header, "alg": "ES256"}, forger.claims, ECKey.import_key(pem), algorithms=["ES256"])


def _nothing_signed(alg: str) -> Callable[[Forger], str]:
    return lambda forger: f"{segment({**forger.header, 'alg': alg})}.{segment(forger.claims)}."


def _changed_claims(forger: Forger) -> str:
    changed = {**forger.claims, "tid": str(PLATFORM_TENANT), "scope": "tenants:read tenants:write"}
    return f"{segment(forger.header)}.{segment(changed)}.{forger.signature}"


FORGERIES: dict[str, Callable[[Forger], str]] = {
    "no algorithm": _nothing_signed("none"),
    "no algorithm, capitals": _nothing_signed("None"),
    "signature left out": lambda forger: forger.token.rsplit(".", 1)[0] + ".",
    "two parts": lambda forger: forger.token.rsplit(".", 1)[0],
    "claims changed": _changed_claims,
    "HS256 with the public key's bytes": lambda forger: forger.by_hmac(
        base64.urlsafe_b64decode(forger.public["x"] + "=="), {}
    ),
    "HS256 with the public key's text": lambda forger: forger.by_hmac(forger.public["x"].encode(), {}),
    "HS256 with the public key as PEM": lambda forger: forger.by_hmac(forger.public_pem, {}),
    "HS256 with the public key as JSON": lambda forger: forger.by_hmac(json.dumps(forger.public).encode(), {}),
    "HS256 with an empty key": lambda forger: forger.by_hmac(b"", {"kid": "../../../dev/null"}),
    "RS256": _rsa,
    "ES256": _ec,
    "another key": lambda forger: forger.by_another_key(),
    "another key, its own id": lambda forger: forger.by_another_key(kid="mine"),
    "another key, no id": lambda forger: forger.by_another_key(kid=None),
    "another key, brought along": lambda forger: forger.by_another_key(embedded=True),
    "another algorithm of the right key": lambda forger: forger.signed({"alg": "EdDSA"}),
    "another type": lambda forger: forger.signed({"typ": "JWT"}),
    "a critical extension": lambda forger: forger.signed({"crit": ["exp"]}),
    "expired": lambda forger: forger.signed({}, exp=int(time.time()) - 60),
    "expired long ago": lambda forger: forger.signed({}, exp=0),
    "without an end": lambda forger: forger.signed({}, exp=None),
    "an end that is no time": lambda forger: forger.signed({}, exp="never"),
    "not yet valid": lambda forger: forger.signed({}, nbf=int(time.time()) + 3600),
    "for somebody else": lambda forger: forger.signed({}, aud="another-platform"),
    "for nobody": lambda forger: forger.signed({}, aud=None),
    "from somebody else": lambda forger: forger.signed({}, iss="https://evil.example"),
    "from nobody": lambda forger: forger.signed({}, iss=None),
    "issued at no time": lambda forger: forger.signed({}, iat=None),
    "issued in the future": lambda forger: forger.signed({}, iat=time.time() + 3600),
    "without an id": lambda forger: forger.signed({}, jti=None),
    "of nobody": lambda forger: forger.signed({}, sub=None),
    "of no tenant": lambda forger: forger.signed({}, tid=None),
    "of a tenant that is no id": lambda forger: forger.signed({}, tid="'; set role postgres; --"),
    "without scopes": lambda forger: forger.signed({}, scope=None),
    "encrypted": lambda forger: ".".join([segment({"alg": "dir", "enc": "A256GCM"}), "", "AAAA", "AAAA", "AAAA"]),
    "no token": lambda forger: "x",
    "long": lambda forger: "x" * 20_000,
    "not ASCII": lambda forger: "\u00e9\u00ff.\u00e9.\u00e9",
}


@pytest.fixture
async def forger(stack: Stack, tenant: Tenant, public: Api) -> Forger:
    return Forger(stack, tenant, (await public.send("GET", "/.well-known/jwks.json")).expect(200))


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_token_is_refused_everywhere(stack: Stack, tenant: Tenant, forger: Forger, name: str) -> None:
    token = FORGERIES[name](forger)
    for place, path in GUARDED.items():
        answer = await replace(tenant.api, url=stack.url(place), token=token).send("GET", V1 + path)
        answer.problem(401, "invalid-token")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_the_forger_could_have_made_a_good_one(stack: Stack, tenant: Tenant, forger: Forger) -> None:
    """Signed the same way without a fault, a token is believed: the refusals above are for their faults."""
    scopes = "tenants:read customers:read billing:read deployments:read webhooks:read"
    for place, path in GUARDED.items():
        token = forger.signed({}, scope=scopes)
        answer = await replace(tenant.api, url=stack.url(place), token=token).send("GET", V1 + path)
        answer.expect(200)


async def test_a_token_goes_in_the_header_alone(stack: Stack, tenant: Tenant) -> None:
    for place in ("gateway", "customer"):
        api = replace(tenant.api, url=stack.url(place), token=None)
        token = tenant.api.token or ""
        for attempt in (
            {"params": {"access_token": token}},
            {"params": {"token": token}},
            {"headers": {"Cookie": f"access_token={token}; token={token}"}},
            {"headers": {"X-Access-Token": token}},
            {"headers": {"Authorization": f"Basic {token}"}},
            {"headers": {"Authorization": token}},
            {"headers": {"Authorization": f"Bearer {token}, Bearer {token}"}},
        ):
            answer = await api.send("GET", f"{V1}/customers", **attempt)  # type: ignore[arg-type]
            answer.problem(401)


@pytest.mark.parametrize("service", SERVICES)
async def test_every_operation_of_a_service_asks_for_a_token_by_itself(stack: Stack, public: Api, service: str) -> None:
    direct = replace(public, url=stack.url(service))
    document = (await direct.send("GET", "/openapi.json")).expect(200)
    asked = 0
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            if not operation.get("security"):
                continue
            body = {} if verb in ("post", "patch") else None
            place = path.replace("{", "").replace("}", "")
            filled = "/".join(str(uuid4()) if part.endswith("_id") else part for part in place.split("/"))
            (await direct.send(verb.upper(), filled, body)).problem(401, "missing-token")
            asked += 1
    assert asked


async def test_the_published_keys_are_public_ones(public: Api) -> None:
    keys = (await public.send("GET", "/.well-known/jwks.json")).expect(200)["keys"]
    for key in keys:
        assert key.keys() == {"kty", "crv", "x", "kid", "use", "alg"}
        assert (key["kty"], key["crv"], key["alg"]) == ("OKP", "Ed25519", "Ed25519")


async def test_nothing_tells_whether_a_name_or_a_password_was_wrong(public: Api, tenant: Tenant, stack: Stack) -> None:
    good = {"username": tenant.administrator, "password": PASSWORD, "tenant": tenant.slug}
    (await public.send("POST", f"{V1}/auth/token", form=good)).expect(200)
    answers = []
    times: dict[str, list[float]] = {"password": [], "username": [], "tenant": []}
    for _ in range(3):
        for wrong in times:
            started = time.perf_counter()
            answer = await public.send("POST", f"{V1}/auth/token", form={**good, wrong: "nobody-knows-this-one"})
            times[wrong].append(time.perf_counter() - started)
            answer.problem(401, "invalid-credentials")
            answers.append(answer.body)
    assert all(body == answers[0] for body in answers)
    # Hashing takes tens of milliseconds: an unknown name answered without it would stand out.
    quickest = {wrong: min(taken) for wrong, taken in times.items()}
    assert max(quickest.values()) < 5 * min(quickest.values()), quickest


@pytest.mark.parametrize("password", ["", "short", "x" * 11, "x" * 201])
async def test_a_weak_password_can_not_be_chosen(public: Api, password: str) -> None:
    body = {"token": "t" * 43, "password": password}
    (await public.send("POST", f"{V1}/auth/invitations/accept", body)).problem(422)


async def test_an_invitation_is_good_once_and_only_the_last_one(public: Api, platform: Api, tenant: Tenant) -> None:
    (await platform.send("POST", f"{V1}/tenants/{tenant.id}/invitations")).problem(409, "already-accepted")
    new = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)
    (await platform.send("POST", f"{V1}/tenants/{new['id']}/invitations")).problem(409, "not-deployed")


async def test_passwords_and_invitations_are_kept_as_hashes(stack: Stack) -> None:
    connection = await asyncpg.connect(stack.database_url("tenant", "api"))
    try:
        await connection.execute(f"set app.tenant_id = '{PLATFORM_TENANT}'")
        users = await connection.fetch("select password_hash from app_user where password_hash is not null")
        hashes = [row["password_hash"] for row in users]
        assert hashes
        assert all(kept.startswith("$argon2id$v=19$m=65536,t=3") for kept in hashes)
        assert all(len(row[0]) == 32 for row in await connection.fetch("select token_hash from invitation"))
    finally:
        await connection.close()


def test_the_forgeries_use_a_symmetric_key_that_a_careless_verifier_would_take(stack: Stack) -> None:
    """The HS256 tokens above are well-formed: with the same key a verifier that allows HS256 reads them."""
    secret = b"a secret of more than thirty-two bytes"
    token = jwt.encode({"alg": "HS256"}, {"sub": "x"}, OctKey.import_key(secret))
    assert jwt.decode(token, OctKey.import_key(secret), algorithms=["HS256"]).claims == {"sub": "x"}
