"""A tenant's settings: read and changed by category, kept sealed where they are secret, and gone by elsewhere."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from chassis.ids import new_id
from chassis.messaging.subscription import Received
from chassis.security.vault import Vault
from deploy.roles import SERVICES
from deploy.stack.stack import Stack
from dotmac_contracts.envelope import Envelope
from dotmac_contracts.tenant import SettingsSnapshot
from services.billing.use_cases.keep_settings import keep_settings
from tests.api import Api, eventually
from tests.conftest import Tenant, deploy
from tests.deployments import done, past_security, settled
from tests.in_process import service_in_process
from tests.integration.test_audit import entries
from tests.integration.test_flow import accounts_of, billed, imported
from tests.integration.test_snapshots import asked
from tests.integration.test_users import joined

V1 = "/api/v1"
ANY = {"If-Match": "*"}
SECRET = "not-to-be-seen-anywhere"


async def settings(api: Api, category: str) -> dict[str, Any]:
    """Return the values of a category's settings, by name."""
    found = (await api.send("GET", f"{V1}/settings/{category}")).expect(200)
    return {item["name"]: item["value"] for item in found["settings"]}


async def changed(api: Api, category: str, changes: dict[str, Any], match: str = "*") -> dict[str, Any]:
    answer = await api.send("PATCH", f"{V1}/settings/{category}", changes, headers={"If-Match": match})
    found: dict[str, Any] = answer.expect(200)
    assert answer.headers["ETag"] == f'"{found["version"]}"'
    return found


async def known(api: Api, days: int) -> None:
    """Return once billing knows the payment terms."""

    async def told() -> bool:
        return bool((await api.send("GET", f"{V1}/billing-workspace")).expect(200)["payment_terms_days"] == days)

    await eventually(told)


async def due_after(api: Api, period: str) -> set[timedelta]:
    """Bill a month, and return after how long its invoices are due."""
    await billed(api, period)
    items = (await api.send("GET", f"{V1}/invoices", params={"period": period})).expect(200)["items"]
    return {
        date.fromisoformat(item["due_on"]) - datetime.fromisoformat(item["issued_at"]).date()
        for item in items
        if item["period_start"].startswith(period)
    }


async def with_a_subscriber(isp: Tenant) -> None:
    await imported(isp.api, "external_reference,name\ns-1,Ada\n")
    await accounts_of(isp.api, "s-1")
    order = {"customer_external_reference": "s-1", "plan_code": "FIBER", "started_on": "2026-01-01"}
    (await isp.api.send("POST", f"{V1}/subscriptions", order)).expect(201)


async def test_settings_are_defaults_until_they_are_changed(isp: Tenant) -> None:
    listed = (await isp.api.send("GET", f"{V1}/settings")).expect(200)["items"]
    assert [category["category"] for category in listed] == ["billing", "branding", "notifications"]
    answer = await isp.api.send("GET", f"{V1}/settings/billing")
    assert answer.expect(200) == listed[0]
    assert answer.headers["ETag"] == '"0"'
    assert (listed[0]["version"], listed[0]["updated_at"]) == (0, None)
    (terms,) = listed[0]["settings"]
    description = terms.pop("description")
    assert "due" in description
    assert terms == {
        "name": "payment_terms_days",
        "type": "integer",
        "minimum": 0,
        "maximum": 90,
        "max_length": None,
        "default": 14,
        "value": 14,
        "write_only": False,
        "is_set": False,
    }


async def test_a_change_names_what_it_changes_and_null_sets_back(isp: Tenant) -> None:
    first = await changed(isp.api, "branding", {"display_name": "Acme", "colour": "#102030"}, '"0"')
    assert first["version"] == 1
    assert [item["is_set"] for item in first["settings"]] == [True, False, False, True]
    second = await changed(isp.api, "branding", {"colour": None, "website": "https://acme.example"}, '"1"')
    assert second["version"] == 2
    wanted = {"display_name": "Acme", "support_email": None, "website": "https://acme.example", "colour": None}
    assert await settings(isp.api, "branding") == wanted
    # What is so already is no change, and none is told.
    again = await changed(isp.api, "branding", {"display_name": "Acme", "colour": None})
    assert again == second
    assert await changed(isp.api, "branding", {}) == second
    stale = await isp.api.send("PATCH", f"{V1}/settings/branding", {"colour": "#000000"}, headers={"If-Match": '"1"'})
    stale.problem(412, "precondition-failed")
    (await isp.api.send("PATCH", f"{V1}/settings/branding", {"colour": "#000000"})).problem(428)
    assert await settings(isp.api, "branding") == wanted
    one, two = await entries(isp.api, 2, resource_type="tenant.settings")
    assert (one["action"], one["before"]) == ("dotmac.tenant.SettingsChanged", None)
    assert two["before"]["values"] == {"display_name": "Acme", "colour": "#102030"}
    assert two["after"]["values"] == {"display_name": "Acme", "website": "https://acme.example"}
    assert two["after"]["changed"] == ["colour", "website"]


async def test_what_is_wrong_changes_nothing(isp: Tenant) -> None:
    path = f"{V1}/settings/notifications"
    before = (await isp.api.send("GET", path)).expect(200)
    mixed = {"sender_name": "Acme", "smtp_port": "25", "smtp_password": "", "a/b~c": 1, "sender_email": 7}
    answer = await isp.api.send("PATCH", path, mixed, headers=ANY)
    answer.problem(422, "invalid-setting")
    pointers = {error["pointer"] for error in answer.body["errors"]}
    assert pointers == {"/body/smtp_port", "/body/smtp_password", "/body/a~1b~0c", "/body/sender_email"}
    for body in ([], "x", 1, None):
        (await isp.api.send("PATCH", path, raw=json.dumps(body).encode(), headers=ANY)).problem(422)
    for name in ("nothing", "Billing", str(new_id())):
        (await isp.api.send("GET", f"{V1}/settings/{name}")).problem(404)
        (await isp.api.send("PATCH", f"{V1}/settings/{name}", {}, headers=ANY)).problem(404)
    assert (await isp.api.send("GET", path)).expect(200) == before


async def test_who_are_first_at_once_take_turns(public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    sent = [{"display_name": "Acme"}, {"colour": "#102030"}, {"website": "https://acme.example"}]
    answers = await asyncio.gather(*(changed(isp.api, "branding", each) for each in sent))
    assert sorted(answer["version"] for answer in answers) == [1, 2, 3]
    kept = await settings(isp.api, "branding")
    assert {name: value for name, value in kept.items() if value} == {**sent[0], **sent[1], **sent[2]}


async def test_settings_are_the_tenants_own_and_roles_say_who_changes_them(
    public: Api, isp: Tenant, other: Tenant, platform: Api
) -> None:
    await changed(isp.api, "branding", {"support_email": "help@acme.example"})
    for api in (other.api, platform):
        assert (await settings(api, "branding"))["support_email"] is None
    manager = await joined(public, isp.api, isp.slug, "manager")
    assert (await settings(manager.api, "branding"))["support_email"] == "help@acme.example"
    (await manager.api.send("PATCH", f"{V1}/settings/branding", {}, headers=ANY)).problem(403, "missing-scope")
    technician = await joined(public, isp.api, isp.slug, "technician")
    (await technician.api.send("GET", f"{V1}/settings")).problem(403, "missing-scope")


async def test_a_secret_is_sealed_and_shown_nowhere(stack: Stack, public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    await settled(stack, isp.id)
    first = await changed(isp.api, "notifications", {"smtp_user": "acme", "smtp_password": SECRET})
    (password,) = [item for item in first["settings"] if item["write_only"]]
    assert (password["name"], password["value"], password["is_set"]) == ("smtp_password", None, True)
    assert password["default"] is None
    read = await isp.api.send("GET", f"{V1}/settings")
    assert SECRET not in f"{first}{read.expect(200)}"
    (row,) = await asked(stack, "tenant", "select * from setting_secret where tenant_id = $1", isp.id)
    assert SECRET.encode() not in row["sealed"]
    assert Vault(stack._secrets["SECRET_KEY"]).open(row["sealed"]) == SECRET.encode()
    # Another one, and none, is a change each; of an attempt that fails nothing is said either.
    await changed(isp.api, "notifications", {"smtp_password": f"{SECRET}-2"})
    (again,) = await asked(stack, "tenant", "select * from setting_secret where tenant_id = $1", isp.id)
    assert Vault(stack._secrets["SECRET_KEY"]).open(again["sealed"]) == f"{SECRET}-2".encode()
    wrong = {"smtp_password": SECRET, "smtp_port": -1}
    refused = await isp.api.send("PATCH", f"{V1}/settings/notifications", wrong, headers=ANY)
    refused.problem(422, "invalid-setting")
    assert SECRET not in str(refused.body)
    log = await entries(isp.api, 2, resource_type="tenant.settings")
    assert [entry["after"].get("secrets") for entry in log] == [["smtp_password"], None]
    assert log[1]["after"] == {"changed": ["smtp_password"]}
    assert log[0]["after"]["values"] == {"smtp_user": "acme"}
    for service in SERVICES:
        async with past_security(stack, service) as database:
            tables = ["outbox", "journal", "audit_entry", "audit_state"] if service == "integration" else ["journal"]
            for table in tables:
                found = f"select count(*) from {table} t where t::text like '%' || $1 || '%'"
                assert await database.fetchval(found, SECRET) == 0, f"{service}.{table}"
                # Values are bytes, and shown in hexadecimal.
                assert await database.fetchval(found, SECRET.encode().hex()) == 0, f"{service}.{table}"
    for log_file in stack.folder.rglob("*.log"):
        assert SECRET.encode() not in log_file.read_bytes(), log_file
    # It leaves with the tenant, and is in no export.
    found = await done(platform, stack, isp.id, operation="deprovision", grace_seconds=0)
    folder = stack.folder / "exports" / isp.id / found["id"] / "tenant"
    assert b"acme" in (folder / "settings.ndjson").read_bytes()
    for file in folder.iterdir():
        assert SECRET.encode() not in file.read_bytes()
        assert b"sealed" not in file.read_bytes()
    for table in ("settings", "setting_secret"):
        assert await asked(stack, "tenant", f"select 1 from {table} where tenant_id = $1", isp.id) == []


async def test_a_secret_can_be_taken_away(stack: Stack, other: Tenant) -> None:
    await changed(other.api, "notifications", {"smtp_password": SECRET})
    after = await changed(other.api, "notifications", {"smtp_password": None})
    assert [item["is_set"] for item in after["settings"] if item["write_only"]] == [False]
    assert await asked(stack, "tenant", "select 1 from setting_secret where tenant_id = $1", other.id) == []
    assert await changed(other.api, "notifications", {"smtp_password": None}) == after


async def test_invoices_are_due_by_the_terms_that_are_set(public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    await with_a_subscriber(isp)
    await known(isp.api, 14)
    assert await due_after(isp.api, "2026-01") == {timedelta(days=14)}
    await changed(isp.api, "billing", {"payment_terms_days": 45})
    await known(isp.api, 45)
    assert await due_after(isp.api, "2026-02") == {timedelta(days=45)}
    await changed(isp.api, "billing", {"payment_terms_days": 0})
    await known(isp.api, 0)
    assert await due_after(isp.api, "2026-03") == {timedelta(0)}
    await changed(isp.api, "billing", {"payment_terms_days": None})
    await known(isp.api, 14)
    assert await due_after(isp.api, "2026-04") == {timedelta(days=14)}


async def test_an_instance_of_ones_own_goes_by_them_too(stack: Stack, public: Api, platform: Api) -> None:
    isp = await deploy(public, platform, "process")
    await settled(stack, isp.id)
    await with_a_subscriber(isp)
    await changed(isp.api, "billing", {"payment_terms_days": 7})
    await known(isp.api, 7)
    assert await due_after(isp.api, "2026-01") == {timedelta(days=7)}
    await done(platform, stack, isp.id, operation="deprovision", grace_seconds=0)

    async def forgotten() -> bool:
        return not await asked(stack, "billing", "select 1 from billing_settings where tenant_id = $1", isp.id)

    await eventually(forgotten)


async def test_the_platforms_own_are_those_of_tenant_zero(platform: Api) -> None:
    before = (await settings(platform, "billing"))["payment_terms_days"]
    await changed(platform, "billing", {"payment_terms_days": 21})
    await known(platform, 21)
    await changed(platform, "billing", {"payment_terms_days": before})
    await known(platform, before)


@pytest.mark.parametrize("category", ["billing", "branding"])
async def test_what_is_told_late_or_of_another_category_changes_nothing(
    stack: Stack, isp: Tenant, category: str
) -> None:
    await changed(isp.api, "billing", {"payment_terms_days": 33})
    await known(isp.api, 33)
    now = datetime.now(UTC)
    event = SettingsSnapshot(
        settings_id=new_id(),
        tenant_id=UUID(isp.id),
        category=category,
        values={"payment_terms_days": 1},
        updated_at=now,
    )
    version = 0 if category == "billing" else 1000
    envelope = Envelope(new_id(), "/services/test", event.TYPE, now, event.key, event.tenant_id, version)
    async with (
        service_in_process(stack, "billing") as service,
        service.consumer_db.for_tenants([event.tenant_id]) as tx,
    ):
        await keep_settings(tx, [Received(envelope, event)])
    await known(isp.api, 33)
