"""What is drift and what is not, by what the records say and what the world answers."""

from dataclasses import replace
from uuid import UUID

import pytest

from services.provisioning.domain.drift import Kind, Record, Remedy, Seen, drifts, expected

DEPLOYMENT = UUID(int=7)
DEPLOYED = Record(DEPLOYMENT, "deploy", "succeeded", stuck=False, brought="deploy", leaving=False)
WELL = Seen("active", DEPLOYMENT, {"customer": True, "billing": True}, "", administrator=True)
REFUSED = "/problems/tenant-suspended"


@pytest.mark.parametrize(
    ("record", "statuses"),
    [
        (None, {"registered"}),
        (DEPLOYED, {"active"}),
        (replace(DEPLOYED, operation="suspend"), {"suspended"}),
        (replace(DEPLOYED, operation="maintain"), {"maintenance"}),
        (replace(DEPLOYED, operation="resume"), {"active"}),
        (replace(DEPLOYED, operation="deprovision", leaving=True), {"deprovisioned"}),
        (replace(DEPLOYED, status="failed", brought=None), {"failed"}),
        # What was undone left the tenant where it was.
        (replace(DEPLOYED, operation="suspend", status="failed"), {"active"}),
        (replace(DEPLOYED, operation="resume", status="failed", brought="maintain"), {"maintenance"}),
        (replace(DEPLOYED, operation="deprovision", status="failed", brought=None), {"registered", "failed"}),
        (
            replace(DEPLOYED, operation="deprovision", status="failed", leaving=True),
            {"deprovisioning", "deprovisioned"},
        ),
        (replace(DEPLOYED, operation="suspend", status="failed", stuck=True), None),
    ],
)
def test_a_record_says_which_status_a_tenant_has(record: Record | None, statuses: set[str] | None) -> None:
    assert expected(record) == statuses


def test_where_all_is_well_nothing_is_found_and_all_was_looked_at() -> None:
    found = drifts(DEPLOYED, WELL, None)
    assert found == dict.fromkeys(Kind)
    left = replace(WELL, status="deprovisioned", workspaces={"customer": False, "billing": False}, refused_as=None)
    record = replace(DEPLOYED, operation="deprovision", leaving=True)
    assert set(drifts(record, left, None).values()) == {None}


def test_what_nobody_can_tell_is_neither_found_nor_well() -> None:
    unknown = Seen("active", DEPLOYMENT, {"customer": None, "billing": True}, None, None, lost=None)
    assert drifts(DEPLOYED, unknown, None) == {Kind.STATUS_DIFFERS: None, Kind.WORKSPACE_LEFT: None}
    stuck = replace(DEPLOYED, status="failed", stuck=True)
    assert Kind.STATUS_DIFFERS not in drifts(stuck, replace(WELL, status="failed"), None)
    leaving = replace(unknown, status="failed")
    assert Kind.WORKSPACE_LEFT not in drifts(replace(DEPLOYED, status="failed"), leaving, None)


@pytest.mark.parametrize(
    ("record", "seen", "refusal", "kind", "remedy"),
    [
        (
            DEPLOYED,
            replace(WELL, workspaces={"customer": False, "billing": None}),
            None,
            Kind.WORKSPACE_MISSING,
            Remedy.REPAIR,
        ),
        (DEPLOYED, replace(WELL, lost=["dotmac_billing_1"]), None, Kind.DATABASE_MISSING, Remedy.REPORT),
        (DEPLOYED, replace(WELL, administrator=False), None, Kind.ADMINISTRATOR_MISSING, Remedy.REPAIR_ADMINISTRATOR),
        (DEPLOYED, replace(WELL, refused_as=REFUSED), None, Kind.STANDING_DIFFERS, Remedy.REPORT),
        (
            replace(DEPLOYED, operation="suspend"),
            replace(WELL, status="suspended"),
            REFUSED,
            Kind.STANDING_DIFFERS,
            Remedy.REPORT,
        ),
        (DEPLOYED, replace(WELL, status="deploying"), None, Kind.STATUS_DIFFERS, Remedy.TELL_AGAIN),
        (
            replace(DEPLOYED, status="failed", brought=None),
            replace(WELL, status="deploying"),
            None,
            Kind.STATUS_DIFFERS,
            Remedy.TELL_AGAIN,
        ),
        (
            DEPLOYED,
            replace(WELL, status="deploying", deployment_id=UUID(int=8)),
            None,
            Kind.STATUS_DIFFERS,
            Remedy.REPORT,
        ),
        (None, replace(WELL, status="deploying"), None, Kind.STATUS_DIFFERS, Remedy.REPORT),
        (
            replace(DEPLOYED, status="failed", brought=None),
            replace(WELL, status="failed", workspaces={"customer": True, "billing": False}),
            None,
            Kind.WORKSPACE_LEFT,
            Remedy.REPORT,
        ),
    ],
)
def test_what_does_not_fit_is_found_with_its_remedy(
    record: Record | None, seen: Seen, refusal: str | None, kind: Kind, remedy: Remedy
) -> None:
    found = [finding for finding in drifts(record, seen, refusal).values() if finding is not None]
    assert [(finding.kind, finding.remedy) for finding in found] == [(kind, remedy)]
