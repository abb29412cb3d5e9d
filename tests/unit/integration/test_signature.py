"""Signatures are those of Standard Webhooks: its own library is the oracle."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from services.integration.domain.signature import new_secret, sign


def headers(secrets: list[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secrets, message_id, timestamp, body),
    }


@given(st.uuids(), st.dictionaries(st.text(), st.text()))
def test_whoever_has_a_secret_verifies_what_it_signed(message_id: object, data: dict[str, str]) -> None:
    body, secrets, now = json.dumps(data).encode(), [new_secret(), new_secret()], int(time.time())
    signed = headers(secrets, str(message_id), now, body)
    for secret in secrets:
        assert Webhook(secret).verify(body, signed) == data
    for wrong in (
        {**signed, "webhook-id": "another"},
        {**signed, "webhook-timestamp": str(now - 1)},
        headers([new_secret()], str(message_id), now, body),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secrets[0]).verify(body, wrong)
    with pytest.raises(WebhookVerificationError):
        Webhook(secrets[0]).verify(body + b" ", signed)


def test_the_specification_s_own_example() -> None:
    signature = sign(
        ["whsec_plJ3nmyCDGBKInavdOK15jsl"],
        "msg_loFOjxBNrRLzqYUf",
        1731705121,
        b'{"event_type":"ping","data":{"success":true}}',
    )
    assert signature == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


def test_secrets_are_long_and_never_the_same() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(secret.startswith("whsec_") and len(secret) == 50 for secret in made)
