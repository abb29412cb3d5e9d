"""A tenant's own instance takes what is that tenant's; the shared one takes what is asked of it, and all tell."""

from uuid import UUID, uuid4

import pytest

from chassis.ids import new_id
from chassis.messaging.audience import Audience
from dotmac_contracts.envelope import Event
from dotmac_contracts.provisioning import DataExportRequested, DeploymentSucceeded

OWN, OTHER = uuid4(), uuid4()


def headers(tenant: UUID, source: str) -> tuple[tuple[str, bytes], ...]:
    return ("ce_source", source.encode()), ("ce_tenantid", str(tenant).encode())


@pytest.mark.parametrize(
    ("dedicated_to", "tenant", "source", "taken"),
    [
        (None, OTHER, "/services/customer", True),
        (None, OWN, f"/services/customer/{OWN}", False),
        (OWN, OWN, f"/services/customer/{OWN}", True),
        (OWN, OWN, "/services/tenant", True),
        (OWN, OTHER, "/services/customer", False),
    ],
)
def test_whose_event_it_is_decides(dedicated_to: UUID | None, tenant: UUID, source: str, taken: bool) -> None:
    assert Audience(dedicated_to).includes(headers(tenant, source)) is taken


def test_a_subscription_can_be_to_what_tenants_own_instances_tell_alone() -> None:
    shared = Audience(None)
    assert shared.includes(headers(OWN, f"/services/billing/{OWN}"), of_instances=True)
    assert not shared.includes(headers(OWN, "/services/billing"), of_instances=True)


@pytest.mark.parametrize(("dedicated_to", "asked"), [(None, False), (OWN, True)])
def test_what_is_asked_of_a_tenants_own_instance_the_shared_one_leaves_alone(
    dedicated_to: UUID | None, asked: bool
) -> None:
    ids = {"deployment_id": uuid4(), "tenant_id": OWN}
    audience = Audience(dedicated_to)
    asking: list[Event] = [DataExportRequested(**ids, dedicated=True)]
    assert [audience.is_asked(event) for event in asking] == [asked]
    assert audience.is_asked(DeploymentSucceeded(**ids))
    assert Audience(None).is_asked(DataExportRequested(**ids))


def test_a_record_without_headers_is_read_by_the_shared_instance_alone() -> None:
    assert Audience(None).includes(())
    assert not Audience(OWN).includes(())


def test_a_tenants_own_instance_shares_a_group_with_nobody() -> None:
    assert [Audience(whose).group("customer") for whose in (None, OWN)] == ["customer", f"customer-{OWN}"]


BEFORE, MOVE, AFTER = new_id(), new_id(), new_id()


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        (f"/services/billing/{OWN}/{MOVE}", True),
        (f"/services/customer/{OWN}/{BEFORE}", False),
        (f"/services/customer/{OWN}", False),
        ("/services/customer", False),
        ("/services/tenant", True),
    ],
)
def test_one_that_a_tenant_was_moved_to_leaves_alone_what_was_told_at_other_places(source: str, taken: bool) -> None:
    assert Audience(OWN, MOVE).includes(headers(OWN, source)) is taken
    assert not Audience(OWN, MOVE).includes(headers(OTHER, source))
    # The shared one and the meter know it as an instance's, however it came there.
    instances = source.count("/") > 2
    assert Audience(None).includes(headers(OWN, source)) is not instances
    assert Audience(None).includes(headers(OWN, source), of_instances=True) is instances


@pytest.mark.parametrize(
    ("deployment", "dedicated", "asked"), [(AFTER, True, True), (AFTER, False, False), (BEFORE, True, False)]
)
def test_one_that_a_tenant_was_moved_to_does_what_was_asked_since(
    deployment: UUID, dedicated: bool, asked: bool
) -> None:
    event = DataExportRequested(deployment_id=deployment, tenant_id=OWN, dedicated=dedicated)
    assert Audience(OWN, MOVE).is_asked(event) is asked
    assert Audience(OWN, MOVE).is_asked(DeploymentSucceeded(deployment_id=BEFORE, tenant_id=OWN))
