"""A connection remembers whom its last request was from, until that token is revoked."""

import pytest

from chassis.http.problem import Problem
from chassis.ids import PLATFORM_TENANT
from chassis.security.revocations import Revocations
from chassis.security.tokens import TokenIssuer, TokenVerifier
from dotmac_contracts.tenant import TokenRevoked
from gateway.admission import Admission
from gateway.settings import GatewaySettings

ISSUER = TokenIssuer("a secret of the tests that is long enough for anybody")
ADDRESS = "127.0.0.1"


async def test_a_revoked_token_passes_on_no_connection() -> None:
    revocations = Revocations()
    admission = Admission(GatewaySettings(), TokenVerifier(ISSUER.jwks(), revocations))
    users = {name: f"Bearer {ISSUER.issue(name, PLATFORM_TENANT, [])}".encode() for name in ("one", "another")}
    last = {}
    for name, authorization in users.items():
        assert admission.at_once(ADDRESS, authorization, False, None) is None
        _, last[name] = await admission.wait(ADDRESS, authorization, False)
        again = admission.at_once(ADDRESS, authorization, False, last[name])
        assert again is not None
        assert again[1] is last[name]
    revoked = last["one"]
    assert revoked is not None
    event = {"user_id": PLATFORM_TENANT, "tenant_id": PLATFORM_TENANT, "token_id": revoked.principal.token_id}
    revocations.add(TokenRevoked.model_validate({**event, "expires_at": revoked.principal.expires_at}))
    assert admission.at_once(ADDRESS, users["one"], False, revoked) is None
    with pytest.raises(Problem, match="revoked"):
        await admission.wait(ADDRESS, users["one"], False)
    # The other one is looked up once more, and then remembered as before.
    found = admission.at_once(ADDRESS, users["another"], False, last["another"])
    assert found is not None
    again = admission.at_once(ADDRESS, users["another"], False, found[1])
    assert again is not None
    assert again[1] is found[1]
