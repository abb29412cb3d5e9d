"""Who may pass, and how often: the token, its tenant's status, then the rate limits."""

import ipaddress
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple, NoReturn

from chassis.http.problem import Closed, Problem
from chassis.security.principals import Principal
from chassis.security.standing import TenantClosed
from chassis.security.tokens import InvalidToken, SigningKeysUnavailable, TokenVerifier
from gateway.limits import Limiter, LocalLimiter, Policy, Quota, SharedLimiter
from gateway.notices import Notices
from gateway.settings import GatewaySettings
from gateway.tenants import Tenants

Public = Literal["public", "sign-up"]
"""By which limits operations are counted that need no token."""
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Caller:
    """Whom a connection's last token spoke for. The next request mostly brings the same one, and needs no look-up."""

    __slots__ = ("_address", "_authorization", "_expires_at", "_known", "keys", "principal", "terms")

    def __init__(self, authorization: bytes, address: str, principal: Principal, known: int, terms: "_Terms") -> None:
        """`known`: the version of what the token was held against."""
        self._authorization = authorization
        self._address = address
        self._expires_at = principal.expires_at.timestamp()
        self._known = known
        self.principal = principal
        self.terms = terms
        """By which limits the requests are counted."""
        subject, tenant = _names(principal)
        plan = () if terms.plan is None else (f"{tenant}:{terms.plan.quota.requests}",)
        self.keys = (subject, tenant, *plan, _network(address))
        """By which the limits know principal, tenant and address. With another plan a tenant begins anew."""

    def is_asking(self, authorization: bytes | None, address: str, known: int) -> bool:
        """Say whether a request is the same caller's, and may pass as the last one did: nothing has changed since."""
        return (
            authorization == self._authorization
            and address == self._address
            and known == self._known
            and time.time() < self._expires_at
        )


class Admission:
    """Lets requests in. What is at hand is decided at once; only what has to be asked for is waited for."""

    def __init__(self, settings: GatewaySettings, verifier: TokenVerifier, tenants: Tenants, notices: Notices) -> None:
        self._notices = notices
        self._verifier = verifier
        self._revocations = verifier.revocations
        self._tenants = tenants
        self._local = LocalLimiter()
        self._shared = SharedLimiter(settings.redis_url) if settings.redis_url else None
        self._limiter: Limiter = self._shared or self._local
        self._principal = Policy("principal", settings.rate_limit)
        self._tenant = Policy("tenant", settings.tenant_rate_limit)
        self._address = Policy("address", settings.address_rate_limit)
        public = Policy("public", settings.public_rate_limit)
        self._public: dict[Public, _Limits] = {
            "public": _Limits(public),
            "sign-up": _Limits(public, Policy("sign-up", settings.sign_up_rate_limit)),
        }
        self._unknown = _Limits(self._address)
        self._terms: dict[int | None, _Terms] = {}
        """By how many requests a plan allows in a minute: there are as many as there are such plans."""

    async def close(self) -> None:
        """Let go of what is held."""
        await self._limiter.close()

    def at_once(
        self, address: str, authorization: bytes | None, public: Public | None, last: Caller | None
    ) -> tuple[bytes, Caller | None] | None:
        """Let a request in; None if that takes waiting; Problem 401, 403 or 429 if it may not pass.

        `last` is whom the connection's last request was from. Gives what the answer says of the limits, as header
        fields with their line ends, and who asks, unless nobody needs to know.
        """
        if self._shared is not None:
            return None
        if public:
            limits = self._public[public]
            keys = (_network(address),) * len(limits.policies)
            return limits.fields(self._local.take_now(limits.policies, keys)), None
        if last is None or not last.is_asking(authorization, address, self._version):
            principal = self._verifier.recall(_token(authorization))
            if principal is None:
                return None
            last = self._caller(authorization, address, principal)
        return self._counted(last, self._local.take_now(last.terms.known.policies, last.keys)), last

    async def wait(
        self, address: str, authorization: bytes | None, public: Public | None
    ) -> tuple[bytes, Caller | None]:
        """Do the same, and wait for what has to be asked for; Problem 401, 403, 429 or 503 if it may not pass."""
        if public:
            limits = self._public[public]
            return limits.fields(await self._take(limits, (_network(address),) * len(limits.policies))), None
        token = _token(authorization)
        principal = self._verifier.recall(token)
        if principal is not None:
            caller = self._caller(authorization, address, principal)
            return self._counted(caller, await self._take(caller.terms.known, caller.keys)), caller
        # Before the signature is looked at, which is what costs: a flood of bad tokens ends here.
        by_address = await self._take(self._unknown, (_network(address),))
        self._unknown.fields(by_address)
        caller = self._caller(authorization, address, await self._verified(token))
        by_name = await self._take(caller.terms.named, caller.keys[:-1])
        return self._counted(caller, [*by_name, *by_address]), caller

    def _counted(self, caller: Caller, aheads: Sequence[float]) -> bytes:
        """Return what is said of a caller's limits, and tell of those of its plan; Problem 429 if one is exceeded."""
        terms = caller.terms
        if terms.plan is not None:
            self._notices.look(caller.principal.tenant_id, terms.plan, aheads[terms.known.policies.index(terms.plan)])
        return terms.known.fields(aheads)

    @property
    def _version(self) -> int:
        """Another one whenever a token was revoked, or a tenant closed, opened, or given another plan."""
        return self._revocations.version + self._tenants.version

    def _caller(self, authorization: bytes | None, address: str, principal: Principal) -> Caller:
        """Remember whom a token speaks for that was verified just now; Problem 403 if its tenant is closed."""
        try:
            self._tenants.require_open(principal)
        except TenantClosed as error:
            raise Closed(error) from None
        terms = self._terms_with(self._tenants.calls_a_minute(principal))
        return Caller(authorization or b"", address, principal, self._version, terms)

    def _terms_with(self, calls_a_minute: int | None) -> "_Terms":
        terms = self._terms.get(calls_a_minute)
        if terms is None:
            # Its window is another than the tenant's: it needs a name of its own.
            plan = None if calls_a_minute is None else Policy("plan", Quota(calls_a_minute, 60.0))
            named = [self._principal, self._tenant, *([plan] if plan else [])]
            terms = self._terms[calls_a_minute] = _Terms(plan, _Limits(*named, self._address), _Limits(*named))
        return terms

    async def _take(self, limits: "_Limits", keys: Sequence[str]) -> list[float]:
        return await self._limiter.take(limits.policies, keys)

    async def _verified(self, token: bytes) -> Principal:
        try:
            return await self._verifier.verify(token.decode("latin-1"))
        except InvalidToken as error:
            detail = f"The access token is not valid: {error}."
            raise Problem(401, "invalid-token", detail, headers=_CHALLENGE) from error
        except SigningKeysUnavailable as error:
            raise Problem(503, "unavailable", "Tokens can't be verified now.", headers={"Retry-After": "1"}) from error


class _Limits:
    """Policies that a request meets together, and what is said of them: draft-ietf-httpapi-ratelimit-headers-10."""

    def __init__(self, *policies: Policy) -> None:
        self.policies = policies
        self._policy = ", ".join(f'"{p.name}";q={p.quota.requests};w={p.quota.seconds:.0f}' for p in policies)
        self._limit = ", ".join(f'"{policy.name}";r=%d;t=%d' for policy in policies)
        self._fields = f"ratelimit-policy: {self._policy}\r\nratelimit: {self._limit}\r\n".encode()

    def fields(self, aheads: Sequence[float]) -> bytes:
        """Return the header fields; Problem 429 if a limit is exceeded."""
        figures: list[float] = []
        refused = False
        for policy, ahead in zip(self.policies, aheads, strict=True):
            refused = refused or ahead > policy.most
            figures += (policy.remaining(ahead), ahead + 1)  # written without fractions
        if refused:
            self._refuse(aheads, figures)
        return self._fields % tuple(figures)

    def _refuse(self, aheads: Sequence[float], figures: Sequence[float]) -> NoReturn:
        refusing = [
            (policy, ahead) for policy, ahead in zip(self.policies, aheads, strict=True) if policy.refuses(ahead)
        ]
        names = [policy.name for policy, _ in refusing]
        raise Problem(
            429,
            "rate-limited",
            f"Too many requests: the limit of the {' and the '.join(names)} is reached.",
            headers={
                "Retry-After": str(int(max(ahead - policy.window for policy, ahead in refusing)) + 1),
                "RateLimit-Policy": self._policy,
                "RateLimit": self._limit % tuple(figures),
            },
            violated_policies=names,
        )


class _Terms(NamedTuple):
    """By which limits a caller's requests are counted."""

    plan: Policy | None
    """What the plan allows, if it says so."""
    known: _Limits
    """All of them, the address's last."""
    named: _Limits
    """Those that are known once the token is verified."""


def _token(authorization: bytes | None) -> bytes:
    if authorization is None or authorization[:7].lower() != b"bearer " or not (token := authorization[7:].strip()):
        raise Problem(401, "missing-token", "Send an access token: Authorization: Bearer …", headers=_CHALLENGE)
    return token


def _names(principal: Principal) -> tuple[str, str]:
    """Return by what the limits know a principal and its tenant."""
    return f"{principal.tenant_id}:{principal.subject}", str(principal.tenant_id)


def _network(address: str) -> str:
    """Return what a client can't change as it likes: its IPv4 address, or the network of its IPv6 address."""
    if ":" not in address:
        return address
    try:
        ip = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((ip, 64), strict=False))
