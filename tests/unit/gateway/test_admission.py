"""A connection remembers whom its last request was from, until that token is revoked or its tenant closed."""

from uuid import uuid4

import pytest

from chassis.http.problem import Problem
from chassis.ids import PLATFORM_TENANT
from chassis.security.principals import Principal
from chassis.security.revocations import Revocations
from chassis.security.standing import Standings
from chassis.security.tokens import TokenIssuer, TokenVerifier
from dotmac_contracts.tenant import TokenRevoked
from gateway.admission import Admission, Caller
from gateway.settings import GatewaySettings
from tests.unit.chassis.test_standing import told

ISSUER = TokenIssuer("a secret of the tests that is long enough for anybody")
ADDRESS = "127.0.0.1"


async def test_a_revoked_token_passes_on_no_connection() -> None:
    revocations = Revocations()
    admission = Admission(GatewaySettings(), TokenVerifier(ISSUER.jwks(), revocations), Standings())
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


async def test_a_closed_tenant_passes_on_no_connection_and_else_nothing_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    standings = Standings()
    verifier = TokenVerifier(ISSUER.jwks())
    admission = Admission(GatewaySettings(), verifier, standings)
    tenant = uuid4()
    authorization = f"Bearer {ISSUER.issue('one', tenant, [])}".encode()
    _, caller = await admission.wait(ADDRESS, authorization, False)
    looked: list[str] = []
    recall, require_open = verifier.recall, standings.require_open

    def recalled(token: bytes) -> Principal | None:
        looked.append("token")
        return recall(token)

    def required(principal: Principal) -> None:
        looked.append("tenant")
        require_open(principal)

    monkeypatch.setattr(verifier, "recall", recalled)
    monkeypatch.setattr(standings, "require_open", required)

    def again() -> Caller | None:
        # It does not wait: neither for a broker nor for a database.
        found = admission.at_once(ADDRESS, authorization, False, caller)
        assert found is not None
        return found[1]

    for _ in range(100):
        assert again() is caller
    assert looked == []
    told(standings, "suspended", 2, tenant)
    for _ in range(2):
        with pytest.raises(Problem) as refused:
            again()
        assert (refused.value.status, refused.value.slug) == (403, "tenant-suspended")
    with pytest.raises(Problem, match="suspended"):
        await admission.wait(ADDRESS, authorization, False)
    looked.clear()
    told(standings, "active", 3, tenant)
    caller = again()
    assert looked == ["token", "tenant"]  # once
    assert again() is caller
    assert looked == ["token", "tenant"]
