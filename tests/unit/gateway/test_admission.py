"""A connection remembers whom its last request was from, until that token is revoked or its tenant closed."""

from uuid import UUID, uuid4

import pytest

from chassis.http.problem import Problem
from chassis.ids import PLATFORM_TENANT
from chassis.security.principals import Principal
from chassis.security.revocations import Revocations
from chassis.security.standing import ENTER
from chassis.security.tokens import TokenIssuer, TokenVerifier
from dotmac_contracts.envelope import Envelope
from dotmac_contracts.quota import Quotas
from dotmac_contracts.tenant import TenantSnapshotRemoved, TokenRevoked
from gateway.admission import Admission, Caller
from gateway.notices import Notices
from gateway.settings import GatewaySettings
from gateway.tenants import Tenants
from tests.unit.chassis.test_standing import NOW, told
from tests.unit.chassis.test_standing import principal as principal_of

ISSUER = TokenIssuer("a secret of the tests that is long enough for anybody")
ADDRESS = "127.0.0.1"


async def test_a_revoked_token_passes_on_no_connection() -> None:
    revocations = Revocations()
    admission = Admission(
        GatewaySettings(), TokenVerifier(ISSUER.jwks(), revocations), Tenants(), Notices(GatewaySettings())
    )
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
    standings = Tenants()
    verifier = TokenVerifier(ISSUER.jwks())
    admission = Admission(GatewaySettings(), verifier, standings, Notices(GatewaySettings()))
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


def bearer(subject: str, tenant: UUID, *scopes: str) -> bytes:
    return f"Bearer {ISSUER.issue(subject, tenant, list(scopes))}".encode()


async def test_a_tenants_users_together_may_send_what_its_plan_allows_in_a_minute() -> None:
    tenants = Tenants()
    admission = Admission(GatewaySettings(), TokenVerifier(ISSUER.jwks()), tenants, Notices(GatewaySettings()))
    small, large = uuid4(), uuid4()
    told(tenants, "active", 2, small, Quotas(api_calls_a_minute=4))
    told(tenants, "active", 2, large, Quotas(customers=5))
    users = [bearer("one", small), bearer("another", small)]
    for number, user in enumerate([*users, *users]):
        # First by the signature, then by what is remembered of the token.
        fields, _ = await admission.wait(ADDRESS, user, None)
        assert b'"plan";q=4;w=60' in fields
        assert f'"plan";r={3 - number}'.encode() in fields
    for user in (*users, bearer("a third", small)):
        with pytest.raises(Problem) as refused:
            await admission.wait(ADDRESS, user, None)
        assert (refused.value.status, refused.value.slug) == (429, "rate-limited")
        assert refused.value.extensions == {"violated_policies": ["plan"]}
        assert 1 <= int(refused.value.headers["Retry-After"]) <= 16
    for other in (bearer("one", large), bearer("one", PLATFORM_TENANT), bearer("deployer", small, ENTER)):
        for _ in range(6):
            fields, _ = await admission.wait(ADDRESS, other, None)
            assert b'"plan"' not in fields


async def test_a_connection_gets_what_another_plan_allows_at_once() -> None:
    tenants = Tenants()
    admission = Admission(GatewaySettings(), TokenVerifier(ISSUER.jwks()), tenants, Notices(GatewaySettings()))
    tenant, other = uuid4(), uuid4()
    user = bearer("one", tenant)
    _, caller = await admission.wait(ADDRESS, user, None)

    def again() -> bytes:
        nonlocal caller
        found = admission.at_once(ADDRESS, user, None, caller)
        assert found is not None
        fields, caller = found
        return fields

    assert b'"plan"' not in again()
    told(tenants, "active", 2, tenant, Quotas(api_calls_a_minute=2))
    assert b'"plan";r=1' in again()
    remembered = caller
    assert b'"plan";r=0' in again()
    assert caller is remembered
    with pytest.raises(Problem, match="the limit of the plan is reached"):
        again()
    # What is told late, again, of others, or by a service that says nothing of quotas changes nothing.
    version = tenants.version
    told(tenants, "active", 1, tenant, Quotas())
    told(tenants, "active", 2, tenant, Quotas(api_calls_a_minute=2))
    told(tenants, "active", 3, tenant)
    told(tenants, "active", 3, other, Quotas())
    assert tenants.version == version
    with pytest.raises(Problem, match="the limit of the plan is reached"):
        again()
    told(tenants, "active", 4, tenant, Quotas(api_calls_a_minute=60_000))
    assert b'"plan";q=60000;w=60' in again()
    told(tenants, "active", 5, tenant, Quotas())
    assert b'"plan"' not in again()


def test_nothing_is_remembered_of_a_tenant_that_left() -> None:
    tenants, tenant = Tenants(), uuid4()
    told(tenants, "active", 2, tenant, Quotas(api_calls_a_minute=2))
    principal = principal_of(tenant)
    assert tenants.calls_a_minute(principal) == 2
    removed = TenantSnapshotRemoved(tenant_id=tenant)
    tenants.hear(Envelope(uuid4(), "/services/tenant", removed.TYPE, NOW, str(tenant), tenant, 5), removed)
    assert tenants.calls_a_minute(principal) is None
    assert tenants.is_closed(tenant)
