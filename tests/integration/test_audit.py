"""The audit log: who changed what, before and after, from where; added to and never changed."""

import base64
import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest

from chassis.ids import PLATFORM_TENANT, new_id
from deploy.stack.stack import Stack
from services.integration.use_cases.forget_entries import forget_entries
from services.tenant.domain.attempts import FREE
from tests.api import Answer, Api, eventually
from tests.conftest import PASSWORD, Tenant
from tests.deployments import past_security
from tests.in_process import service_in_process
from tests.integration.test_flow import accounts_of, billed, imported

V1 = "/api/v1"
LOG = f"{V1}/audit-entries"


def subject(api: Api) -> str:
    """Return whose token this is."""
    assert api.token is not None
    payload = api.token.split(".")[1]
    found: str = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
    return found


async def entries(api: Api, count: int, **wanted: str) -> list[dict[str, Any]]:
    """Return the entries that are wanted, the oldest first, once so many are there."""

    async def found() -> Any:
        listed = (await api.send("GET", LOG, params={"limit": "200", **wanted})).expect(200)["items"]
        assert len(listed) <= count, [item["action"] for item in listed]
        return listed[::-1] if len(listed) == count else None

    return list(await eventually(found)) if count else []


async def test_a_change_says_who_made_it_and_what_it_changed(isp: Tenant) -> None:
    created = (await isp.api.send("POST", f"{V1}/customers", {"name": "Ada", "city": "London"})).expect(201)
    path, match = f"{V1}/customers/{created['id']}", {"If-Match": "*"}
    (await isp.api.send("PATCH", path, {"city": "Paris", "phone": "+33 1"}, headers=match)).expect(200)
    (await isp.api.send("PATCH", path, {"name": "Ada L."}, headers=match)).expect(200)
    made, moved, named = await entries(isp.api, 3, resource_id=created["id"], resource_type="customer.customer")
    for version, entry in enumerate((made, moved, named), 1):
        assert entry["tenant_id"] == isp.id
        assert entry["version"] == version
        assert (entry["actor"], entry["actor_kind"]) == (subject(isp.api), "user")
        assert entry["client_address"] == "127.0.0.1"
        assert len(entry["trace_id"]) == 32
    assert made["action"] == "dotmac.customer.CustomerCreated"
    assert made["before"] is None
    assert (made["after"]["name"], made["after"]["city"]) == ("Ada", "London")
    assert moved["action"] == named["action"] == "dotmac.customer.CustomerUpdated"
    assert (moved["before"], moved["after"]) == (
        {"city": "London", "phone": None},
        {"city": "Paris", "phone": "+33 1"},
    )
    assert (named["before"], named["after"]) == ({"name": "Ada"}, {"name": "Ada L."})


async def test_what_is_deleted_is_there_for_the_last_time(isp: Tenant) -> None:
    role = {"name": "night_shift", "scopes": ["customers:read"], "description": "On call"}
    made = (await isp.api.send("POST", f"{V1}/roles", role)).expect(201)
    (await isp.api.send("DELETE", f"{V1}/roles/{made['id']}")).expect(204)
    _, gone = await entries(isp.api, 2, resource_id=made["id"])
    assert (gone["action"], gone["after"]) == ("dotmac.tenant.RoleDeleted", None)
    assert {name: gone["before"][name] for name in role} == role


async def test_what_follows_from_a_change_has_its_actor(isp: Tenant) -> None:
    await imported(isp.api, "external_reference,name\naudit-1,Ada\naudit-2,Grace\n")
    await accounts_of(isp.api, "audit-1")
    order = {"customer_external_reference": "audit-1", "plan_code": "FIBER", "started_on": "2026-01-01"}
    subscription = (await isp.api.send("POST", f"{V1}/subscriptions", order)).expect(201)
    await billed(isp.api, "2026-01")
    customers = (await isp.api.send("GET", f"{V1}/customers", params={"limit": "200"})).expect(200)["items"]
    (of_import,) = [item["id"] for item in customers if item["external_reference"] == "audit-1"]
    (issued,) = await entries(isp.api, 1, action="dotmac.billing.InvoiceIssued")
    (imported_,) = await entries(isp.api, 1, resource_id=of_import)
    # By the consumer of another service, in answer to the import's events.
    (opened,) = await entries(isp.api, 1, resource_id=subscription["account_id"], resource_type="billing.account")
    for entry in (imported_, opened, issued):
        assert (entry["actor"], entry["actor_kind"]) == (subject(isp.api), "user"), entry["action"]
        assert entry["client_address"] == "127.0.0.1"


async def test_a_deployment_is_the_platforms_and_an_invitation_is_accepted_by_whom_it_is_for(
    isp: Tenant, platform: Api
) -> None:
    wanted = {"tenant_id": isp.id, "resource_id": isp.deployment["id"]}
    (asked,) = await entries(platform, 1, **wanted, resource_type="tenant.deployment")
    steps = await entries(platform, 4, **wanted, resource_type="provisioning.deployment")
    (activated,) = await entries(isp.api, 1, action="dotmac.tenant.TenantActivated")
    assert steps[-1]["action"] == "dotmac.provisioning.DeploymentSucceeded"
    for entry in (asked, *steps, activated):  # the last ones after a look of the worker's own
        assert (entry["actor"], entry["actor_kind"]) == (subject(platform), "platform"), entry["action"]
    (accepted,) = await entries(isp.api, 1, action="dotmac.tenant.InvitationAccepted")
    assert (accepted["actor"], accepted["actor_kind"]) == (subject(isp.api), "user")
    assert accepted["client_address"] == "127.0.0.1"


async def test_a_program_acts_as_what_it_is(isp: Tenant, public: Api) -> None:
    key = {"name": "nightly", "scopes": ["customers:read", "customers:write"]}
    made = (await isp.api.send("POST", f"{V1}/api-keys", key)).expect(201)
    kind = "urn:ietf:params:oauth:grant-type:token-exchange"
    form = {
        "grant_type": kind,
        "subject_token": made["key"],
        "subject_token_type": "urn:dotmac:params:oauth:token-type:api-key",
    }
    token = (await public.send("POST", f"{V1}/auth/token", form=form)).expect(200)["access_token"]
    by_key = (await public.as_(token).send("POST", f"{V1}/customers", {"name": "By key"})).expect(201)
    account = (
        await isp.api.send("POST", f"{V1}/service-accounts", {"name": "exporter", "scopes": key["scopes"]})
    ).expect(201)
    form = {"grant_type": "client_credentials", "client_id": account["id"], "client_secret": account["secret"]}
    token = (await public.send("POST", f"{V1}/auth/token", form=form)).expect(200)["access_token"]
    by_account = (await public.as_(token).send("POST", f"{V1}/customers", {"name": "By account"})).expect(201)
    (of_key,) = await entries(isp.api, 1, resource_id=by_key["id"])
    (of_account,) = await entries(isp.api, 1, resource_id=by_account["id"])
    assert (of_key["actor"], of_key["actor_kind"]) == (subject(isp.api), "api-key")
    assert (of_account["actor"], of_account["actor_kind"]) == (account["id"], "service-account")
    # Neither the key nor the secret is anywhere in it.
    log = json.dumps((await isp.api.send("GET", f"{LOG}/export")).expect(200))
    assert made["key"] not in log
    assert account["secret"] not in log


async def test_sign_ins_and_failed_ones_are_told_and_of_strangers_nothing(
    stack: Stack, public: Api, isp: Tenant, database: "asyncpg.Connection[Any]"
) -> None:
    user, name = subject(isp.api), f"{uuid4().hex}@nobody.example"
    told = {"resource_type": "tenant.session", "resource_id": user}

    async def complete() -> bool:
        known = {entry["id"] for entry in (await isp.api.send("GET", f"{LOG}/export")).expect(200)}
        return known >= await published(stack, isp.id, ["tenant"])

    await eventually(complete)
    before = len((await isp.api.send("GET", LOG, params={"limit": "200", **told})).expect(200)["items"])

    async def tried(username: str, password: str) -> Answer:
        form = {"username": username, "password": password, "tenant": isp.slug}
        return await public.send("POST", f"{V1}/auth/token", form=form)

    for _ in range(FREE):
        (await tried(isp.administrator, "wrong horse battery")).problem(401, "invalid-credentials")
        (await tried(name, "wrong horse battery")).problem(401, "invalid-credentials")
    await database.execute("update sign_in_attempts set last_at = now() + interval '1 minute'")
    for _ in range(3):  # locked: nothing more is told
        assert (await tried(isp.administrator, PASSWORD)).status == 429
        assert (await tried(name, PASSWORD)).status == 429
    await database.execute("update sign_in_attempts set last_at = last_at - interval '5 minutes'")
    session = (await tried(isp.administrator, PASSWORD)).expect(200)
    (await public.as_(session["access_token"]).send("POST", f"{V1}/auth/logout")).expect(204)
    *failed, opened, ended = (await entries(isp.api, before + FREE + 2, **told))[before:]
    assert {entry["action"] for entry in failed} == {"dotmac.tenant.SignInFailed"}
    assert {(entry["actor_kind"], entry["actor"], entry["client_address"]) for entry in failed} == {
        ("anonymous", None, "127.0.0.1")
    }
    assert [entry["after"]["failures"] for entry in failed] == [*range(1, FREE + 1)]
    assert failed[-1]["after"]["locked_seconds"] == 1
    assert [(entry["action"], entry["actor"]) for entry in (opened, ended)] == [
        ("dotmac.tenant.SignedIn", user),
        ("dotmac.tenant.SessionEnded", user),
    ]
    assert ended["after"]["reason"] == "signed-out"
    log = json.dumps((await isp.api.send("GET", f"{LOG}/export")).expect(200))
    for secret in ("horse battery", name, session["access_token"], session["refresh_token"]):
        assert secret not in log
    hashed = "select count(*) from sign_in_attempts where account = sha256(convert_to($1 || chr(10) || $2, 'UTF8'))"
    assert await database.fetchval(hashed, name, isp.slug) == 1


async def test_nobody_chooses_the_address_that_is_written_down(isp: Tenant) -> None:
    for number, header in enumerate(("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-Address")):
        value = "for=9.9.9.9" if header == "Forwarded" else "9.9.9.9"
        body = {"name": f"Forged {number}"}
        made = (await isp.api.send("POST", f"{V1}/customers", body, headers={header: value})).expect(201)
        (entry,) = await entries(isp.api, 1, resource_id=made["id"])
        assert entry["client_address"] == "127.0.0.1"


async def test_the_log_is_searched_page_by_page(isp: Tenant) -> None:
    since = datetime.now(UTC)
    made = [
        str((await isp.api.send("POST", f"{V1}/customers", {"name": f"Page {n}"})).expect(201)["id"]) for n in range(7)
    ]
    until = datetime.now(UTC)
    wanted = {
        "actor": subject(isp.api),
        "action": "dotmac.customer.CustomerCreated",
        "since": since.isoformat(),
        "until": until.isoformat(),
    }
    assert [item["resource_id"] for item in await entries(isp.api, 7, **wanted)] == made
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await isp.api.send("GET", LOG, params={**wanted, "limit": "3", **cursor})).expect(200)
        found += [item["resource_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == made[::-1]  # the newest first
    for change in (
        {"actor": str(new_id())},
        {"action": "dotmac.customer.CustomerTerminated"},
        {"resource_type": "billing.invoice"},
        {"resource_id": str(new_id())},
        {"since": until.isoformat()},
        {"until": since.isoformat()},
    ):
        listed = (await isp.api.send("GET", LOG, params={**wanted, **change})).expect(200)["items"]
        assert not {item["resource_id"] for item in listed} & {*made}, change
    forged = base64.urlsafe_b64encode(b'["0001-01-01T00:00:00+14:00","x"]').decode()
    for refused, status in (
        ({"cursor": forged}, 400),
        ({"cursor": "nonsense"}, 400),
        ({"action": "dotmac.NoSuch"}, 422),
        ({"resource_type": "customer"}, 422),
        ({"since": "0001-01-01T00:00:00+14:00"}, 422),
        ({"since": "yesterday"}, 422),
        ({"actor": "a\x00b"}, 422),
    ):
        (await isp.api.send("GET", LOG, params=refused)).problem(status)


async def test_the_log_is_taken_along_whole(isp: Tenant) -> None:
    listed = (await isp.api.send("GET", LOG, params={"resource_type": "customer.customer", "limit": "200"})).expect(200)
    assert listed["next_cursor"] is None
    wanted = {"resource_type": "customer.customer"}
    answer = await isp.api.send("GET", f"{LOG}/export", params=wanted)
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert 'filename="audit.ndjson"' in answer.headers["Content-Disposition"]
    assert answer.expect(200) == listed["items"][::-1]
    answer = await isp.api.send("GET", f"{LOG}/export", params={**wanted, "format": "csv"})
    assert answer.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.expect(200).decode())))
    assert [row["id"] for row in rows] == [item["id"] for item in listed["items"][::-1]]
    assert [json.loads(row["after"]) for row in rows] == [item["after"] for item in listed["items"][::-1]]
    (await isp.api.send("GET", f"{LOG}/export", params={"format": "xml"})).problem(422)


async def test_a_tenant_sees_its_own_log_and_the_platform_no_data_of_its_customers(
    isp: Tenant, other: Tenant, platform: Api
) -> None:
    made = (await isp.api.send("POST", f"{V1}/customers", {"name": "Secret Ada"})).expect(201)
    wanted = {"resource_id": made["id"]}
    (own,) = await entries(isp.api, 1, **wanted)
    assert own["after"]["name"] == "Secret Ada"
    for path in (LOG, f"{LOG}/export"):
        for theirs in (wanted, {**wanted, "tenant_id": isp.id}, {"tenant_id": str(new_id())}):
            body = (await other.api.send("GET", path, params=theirs)).expect(200)
            assert (body["items"] if path == LOG else body) == []
    (seen,) = await entries(platform, 1, tenant_id=isp.id, **wanted)
    assert seen == {**own, "before": None, "after": None}
    (exported,) = (await platform.send("GET", f"{LOG}/export", params={"tenant_id": isp.id, **wanted})).expect(200)
    assert exported == seen
    # What is the platform's own affair, it sees whole; and without a tenant's id, its own log.
    (registered,) = await entries(platform, 1, tenant_id=isp.id, action="dotmac.tenant.TenantRegistered")
    assert registered["after"]["slug"] == isp.slug
    listed = (await platform.send("GET", LOG, params={"limit": "200"})).expect(200)["items"]
    assert {item["tenant_id"] for item in listed} <= {str(PLATFORM_TENANT)}


@pytest.mark.parametrize("role", ["api", "consumer"])
async def test_nothing_in_it_can_be_changed(stack: Stack, isp: Tenant, role: str) -> None:
    await entries(isp.api, 1, action="dotmac.tenant.TenantActivated")
    connection = await asyncpg.connect(stack.database_url("integration", role))
    try:
        await connection.execute(f"set app.tenant_id = '{isp.id}'; set app.tenant_ids = '{isp.id}'")
        count = await connection.fetchval("select count(*) from audit_entry")
        assert count
        for statement in ("update audit_entry set actor = 'x'", "truncate audit_entry"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        if role == "api":
            for statement in ("delete from audit_entry", "select * from audit_state"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        else:  # it deletes what is of a tenant that leaves, and nothing else
            assert await connection.execute("delete from audit_entry") == "DELETE 0"
        assert await connection.fetchval("select count(*) from audit_entry") >= count  # one may have come
    finally:
        await connection.close()
    async with past_security(stack, "integration") as owner:
        for statement in ("update audit_entry set actor = 'x'", "truncate audit_entry"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="added to"):
                await owner.execute(statement)


async def published(stack: Stack, tenant: str, services: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for service in services:
        connection = await asyncpg.connect(stack.database_url(service, "relay"))
        try:
            rows = await connection.fetch(
                "select event_id from journal where tenant_id = $1 and topic !~ 'snapshot' union"
                " select event_id from outbox where tenant_id = $1 and topic !~ 'snapshot'",
                UUID(tenant),
            )
            found |= {str(row["event_id"]) for row in rows}
        finally:
            await connection.close()
    return found


async def test_every_event_is_an_entry_and_none_is_two(stack: Stack, isp: Tenant) -> None:
    services = ("tenant", "provisioning", "customer", "billing", "integration")

    async def complete() -> Any:
        events = await published(stack, isp.id, services)
        exported = (await isp.api.send("GET", f"{LOG}/export")).expect(200)
        ids = [entry["id"] for entry in exported]
        assert len(set(ids)) == len(ids)
        return len(ids) >= len(events) > 30 and {*ids} == events

    await eventually(complete)


async def test_a_slow_reader_of_an_export_holds_up_nobody(isp: Tenant, http: aiohttp.ClientSession) -> None:
    """More at once than the service has connections to its database, each left unread."""
    headers = {"Authorization": f"Bearer {isp.api.token}"}
    opened = [await http.get(f"{isp.api.url}{LOG}/export", headers=headers) for _ in range(15)]
    try:
        assert (await isp.api.send("GET", LOG)).status == 200
    finally:
        for answer in opened:
            answer.close()


async def test_what_is_older_than_it_is_to_be_kept_is_deleted_and_what_is_known_by_it_stays_known(
    stack: Stack,
) -> None:
    tenant, changed, unchanged, deleted = (new_id() for _ in range(4))
    # In one transaction: the stack's own worker sees all of it or nothing.
    async with past_security(stack, "integration") as owner, owner.transaction():
        for resource, version, days, after in (
            (unchanged, 1, 500, {"name": "first"}),
            (changed, 1, 500, {"name": "first"}),
            (changed, 2, 399, {"name": "second"}),
            (deleted, 1, 500, {"name": "first"}),
            (deleted, 2, 401, None),
            (new_id(), 1, 401, None),
        ):
            await owner.execute(
                "insert into audit_entry (tenant_id, occurred_at, entry_id, action, resource_type, resource_id,"
                " version, after) values"
                " ($1, now() - $2::interval, uuidv7(), 'x', 'customer.customer', $3, $4, $5)",
                tenant,
                timedelta(days=days),
                str(resource),
                version,
                json.dumps(after) if after else None,
            )
        await owner.execute(
            "insert into audit_state values ($1, 'customer.customer', $2, '{\"name\": \"second\"}')",
            tenant,
            str(changed),
        )
    async with service_in_process(stack, "integration") as service:

        async def left() -> bool:
            await forget_entries(service, 400)  # the stack's own may be faster
            async with service.db.for_tenant(tenant) as tx:
                rows = await tx.fetch("select resource_id, version from audit_entry")
            return [tuple(row) for row in rows] == [(str(changed), 2)]

        await eventually(left)
        async with service.consumer_db.for_tenants([tenant]) as tx:
            rows = await tx.fetch("select resource_id, state from audit_state")
            assert {row["resource_id"]: row["state"]["name"] for row in rows} == {
                str(changed): "second",
                str(unchanged): "first",
            }
            # The consumers' role sees old entries of all tenants.
            await tx.execute("delete from audit_entry")
