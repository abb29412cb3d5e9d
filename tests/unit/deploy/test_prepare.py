"""The addresses and the password verifiers that the preparation of the servers makes."""

import base64
import hashlib
import hmac

import pytest

from deploy.prepare import database_url
from deploy.scram import verifier


def test_an_address_keeps_the_servers_host_port_and_options_and_nothing_of_its_login() -> None:
    url = database_url("postgresql://root:hidden@[::1]:5433/postgres?sslmode=require", "customer", "api", "p:@/ w")
    assert url == "postgresql://customer_api:p%3A%40%2F%20w@[::1]:5433/dotmac_customer?sslmode=require"


def test_a_verifier_lets_the_server_check_a_proof_of_the_password_as_rfc_5802_says() -> None:
    scheme, parameters, keys = verifier("pencil").split("$")
    iterations, salt = parameters.split(":")
    stored, server = (base64.b64decode(part) for part in keys.split(":"))
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", base64.b64decode(salt), int(iterations))
    client = hmac.digest(salted, b"Client Key", "sha256")
    assert (scheme, int(iterations), len(base64.b64decode(salt))) == ("SCRAM-SHA-256", 4096, 16)
    assert hashlib.sha256(client).digest() == stored
    assert hmac.digest(salted, b"Server Key", "sha256") == server


@pytest.mark.parametrize("password", ["naïve", "tab\t"])
def test_a_password_that_clients_may_normalise_otherwise_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        verifier(password)
