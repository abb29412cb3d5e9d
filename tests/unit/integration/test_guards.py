"""Which scopes guard which events."""

from services.integration.consumers.events import PUBLIC_EVENTS
from services.integration.domain.guards import GUARDS, guards_of, hidden_from

INVOICED, CREATED, ACTIVATED = (
    "dotmac.billing.InvoiceIssued",
    "dotmac.customer.CustomerCreated",
    "dotmac.tenant.TenantActivated",
)


def test_events_of_each_domain_are_guarded_or_open_on_purpose() -> None:
    domains = {name.split(".")[1] for name in PUBLIC_EVENTS}
    assert domains - GUARDS.keys() == {"gateway", "integration", "tenant"}
    assert GUARDS.keys() <= domains


def test_types_take_the_scopes_of_their_domains_and_no_type_takes_all() -> None:
    assert guards_of([INVOICED]) == {"billing:read"}
    assert guards_of([CREATED, ACTIVATED, INVOICED]) == {"billing:read", "customers:read"}
    assert guards_of([ACTIVATED]) == frozenset()
    assert guards_of([]) == {*GUARDS.values()}


def test_domains_are_hidden_from_whom_lacks_their_scope() -> None:
    assert hidden_from({"customers:read", "events:read"}) == ["billing"]
    assert hidden_from({"billing:write"}) == ["billing", "customer"]
    assert hidden_from({*GUARDS.values()}) == []
