"""Which tokens are revoked: exactly those that were, until they would have expired."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from chassis.ids import PLATFORM_TENANT
from chassis.security.revocations import LONGEST_LIFETIME, Revocations
from chassis.security.tokens import InvalidToken, TokenIssuer, TokenVerifier
from dotmac_contracts.tenant import AdministratorRemoved, SessionEnded, TokenRevoked, TokensRevoked
from dotmac_contracts.topics import TENANT_SESSION

ISSUER = TokenIssuer("a secret of the tests that is long enough for anybody")
USER = uuid4()
NOW = datetime.now(UTC)


@pytest.fixture
def revocations() -> Revocations:
    return Revocations()


@pytest.fixture
def verifier(revocations: Revocations) -> TokenVerifier:
    return TokenVerifier(ISSUER.jwks(), revocations)


def token(user: UUID = USER, issued_at: datetime = NOW) -> str:
    # That moment is long gone when the tests before this one have been many.
    return ISSUER.issue(str(user), PLATFORM_TENANT, [], issued_at=issued_at, ttl=timedelta(hours=6))


def all_of(user: UUID, until: datetime) -> TokensRevoked:
    return TokensRevoked(user_id=user, tenant_id=PLATFORM_TENANT, issued_before=until)


def one(token_id: str, expires_at: datetime = NOW + timedelta(minutes=15)) -> TokenRevoked:
    return TokenRevoked(user_id=USER, tenant_id=PLATFORM_TENANT, token_id=UUID(token_id), expires_at=expires_at)


async def test_a_token_that_is_revoked_is_believed_no_longer_and_another_of_its_user_is(
    verifier: TokenVerifier, revocations: Revocations
) -> None:
    first, second = token(), token()
    who = await verifier.verify(first)
    assert verifier.recall(first.encode()) == who
    revocations.add(one(who.token_id))
    assert verifier.recall(first.encode()) is None
    for _ in range(2):
        with pytest.raises(InvalidToken, match="revoked"):
            await verifier.verify(first)
    assert (await verifier.verify(second)).subject == str(USER)


async def test_the_tokens_of_a_session_that_ended_are_believed_no_longer(
    verifier: TokenVerifier, revocations: Revocations
) -> None:
    session, another = uuid4(), uuid4()
    ids = {"user_id": USER, "tenant_id": PLATFORM_TENANT}
    tokens = {of: ISSUER.issue(str(USER), PLATFORM_TENANT, [], session_id=of) for of in (session, another, None)}
    assert (await verifier.verify(tokens[session])).session_id == str(session)
    over = NOW + timedelta(minutes=15)
    revocations.add(SessionEnded(**ids, session_id=session, expires_at=over, reason="signed-out"))
    assert verifier.recall(tokens[session].encode()) is None
    with pytest.raises(InvalidToken, match="revoked"):
        await verifier.verify(tokens[session])
    assert (await verifier.verify(tokens[another])).session_id == str(another)
    assert (await verifier.verify(tokens[None])).session_id is None
    revocations.forget_expired(over + timedelta(minutes=2))
    assert await verifier.verify(tokens[session])


async def test_what_is_revoked_before_it_is_seen_is_never_believed(
    verifier: TokenVerifier, revocations: Revocations
) -> None:
    revocations.add(all_of(USER, NOW))
    with pytest.raises(InvalidToken):
        await verifier.verify(token())


async def test_all_tokens_of_a_user_until_a_moment_are_revoked_and_none_after_it(
    verifier: TokenVerifier, revocations: Revocations
) -> None:
    moment = timedelta(microseconds=1)
    until, after, of_another = token(), token(issued_at=NOW + moment), token(user=uuid4())
    for each in (until, after, of_another):
        await verifier.verify(each)
    for event in (all_of(USER, NOW), all_of(USER, NOW - timedelta(minutes=5)), all_of(USER, NOW)):  # late, and again
        revocations.add(event)
        with pytest.raises(InvalidToken):
            await verifier.verify(until)
        for each in (after, of_another):
            await verifier.verify(each)


def test_a_version_says_when_to_look_again(revocations: Revocations) -> None:
    versions = [revocations.version]
    for event in (one(str(uuid4())), all_of(USER, NOW)):
        revocations.add(event)
        versions.append(revocations.version)
    assert len(set(versions)) == 3
    revocations.add(AdministratorRemoved(user_id=USER, tenant_id=USER, deployment_id=USER, email="a@b.example"))
    assert revocations.version == versions[-1]


async def test_nothing_is_forgotten_as_long_as_a_token_lives(verifier: TokenVerifier, revocations: Revocations) -> None:
    who = await verifier.verify(token())
    ends = {one(who.token_id, who.expires_at): who.expires_at, all_of(USER, NOW): NOW + LONGEST_LIFETIME}
    for event, end in ends.items():
        revocations.add(event)
        revocations.forget_expired(end + timedelta(seconds=5))
        assert revocations.include(who)
        revocations.forget_expired(end + timedelta(minutes=5))
        assert not revocations.include(who)


def test_the_topic_remembers_longer_than_a_token_can_live() -> None:
    assert timedelta(milliseconds=TENANT_SESSION.retention_ms) > LONGEST_LIFETIME
    with pytest.raises(ValueError, match="lives"):
        ISSUER.issue("somebody", PLATFORM_TENANT, [], ttl=LONGEST_LIFETIME + timedelta(seconds=1))
