"""Templates of deployments: kept by the platform, and what they say is so once a tenant is deployed by one."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from chassis.ids import new_id
from chassis.messaging.subscription import Received
from deploy.stack.stack import Stack
from dotmac_contracts.envelope import Envelope
from dotmac_contracts.money import Money
from dotmac_contracts.provisioning import WorkspaceRequested
from dotmac_contracts.workspace import StarterPlan, WorkspaceParameters
from services.billing.consumers import workspaces
from tests.api import Api
from tests.conftest import PASSWORD, Tenant, deploy, registration, sign_in
from tests.deployments import ended, settled
from tests.in_process import service_in_process
from tests.integration.test_audit import entries
from tests.integration.test_flow import accounts_of, billed, imported
from tests.integration.test_settings import known, settings
from tests.integration.test_snapshots import asked

V1 = "/api/v1"
TEMPLATES = f"{V1}/deployment-templates"
ANY = {"If-Match": "*"}
PLANS = [
    {"code": "RURAL", "name": "Rural fiber", "price_minor": 4500},
    {"code": "TOWN", "name": "Town fiber", "price_minor": 3500},
]
PARAMETERS = {"payment_terms_days": 30, "invoice_prefix": "RUR", "starter_plans": PLANS}


async def made(platform: Api, **facts: Any) -> dict[str, Any]:
    body = {"name": f"template {uuid4().hex[:8]}", "parameters": PARAMETERS, **facts}
    found: dict[str, Any] = (await platform.send("POST", TEMPLATES, body)).expect(201)
    return found


async def registered(platform: Api, **facts: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await platform.send("POST", f"{V1}/tenants", registration(**facts))).expect(201)
    return found


async def deployed(public: Api, platform: Api, stack: Stack, tenant: dict[str, Any], **order: Any) -> Tenant:
    """Deploy a tenant as an order says, and sign in as its administrator."""
    path = f"{V1}/tenants/{tenant['id']}"
    accepted = (await platform.send("POST", f"{path}/deployments", order)).expect(202)
    deployment = await ended(platform, accepted["deployment_id"])
    assert deployment["status"] == "succeeded", deployment
    await settled(stack, tenant["id"])
    invitation = (await platform.send("POST", f"{path}/invitations")).expect(201)
    body = {"token": invitation["token"], "password": PASSWORD}
    (await public.send("POST", f"{V1}/auth/invitations/accept", body)).expect(204)
    token = await sign_in(public, invitation["email"], PASSWORD, tenant["slug"])
    return Tenant(tenant["id"], tenant["slug"], public.as_(token), deployment, invitation["email"])


async def plans(api: Api) -> dict[str, tuple[str, dict[str, Any]]]:
    items = (await api.send("GET", f"{V1}/plans")).expect(200)["items"]
    return {item["code"]: (item["name"], item["price"]) for item in items}


async def invoice(api: Api, plan: str) -> dict[str, Any]:
    """Bill one subscriber of a plan, and return the invoice."""
    await imported(api, "external_reference,name\nt-1,Ada\n")
    await accounts_of(api, "t-1")
    order = {"customer_external_reference": "t-1", "plan_code": plan, "started_on": "2026-01-01"}
    (await api.send("POST", f"{V1}/subscriptions", order)).expect(201)
    await billed(api, "2026-01")
    (found,) = (await api.send("GET", f"{V1}/invoices")).expect(200)["items"]
    return dict(found)


def pointers(answer: Any) -> set[str]:
    return {error["pointer"] for error in answer.body["errors"]}


async def test_a_template_is_made_read_changed_and_deleted(platform: Api) -> None:
    template = await made(platform, description="For small ISPs", plan="starter")
    path = f"{TEMPLATES}/{template['id']}"
    assert (template["target"], template["plan"], template["parameters"]) == ("pooled", "starter", PARAMETERS)
    read = await platform.send("GET", path)
    assert (read.expect(200), read.headers["ETag"]) == (template, '"1"')
    listed = (await platform.send("GET", TEMPLATES, params={"limit": "200"})).expect(200)["items"]
    assert template in listed
    taken = {"name": template["name"]}
    (await platform.send("POST", TEMPLATES, taken)).problem(409, "template-exists")
    another = await made(platform)
    (await platform.send("PATCH", f"{TEMPLATES}/{another['id']}", taken, headers=ANY)).problem(409, "template-exists")
    changes = {"plan": None, "parameters": {"invoice_prefix": "A1"}}
    changed = (await platform.send("PATCH", path, changes, headers={"If-Match": '"1"'})).expect(200)
    assert (changed["version"], changed["plan"], changed["parameters"]) == (2, None, {"invoice_prefix": "A1"})
    assert changed["description"] == "For small ISPs"
    assert (await platform.send("PATCH", path, changes, headers={"If-Match": '"2"'})).expect(200) == changed
    (await platform.send("PATCH", path, changes, headers={"If-Match": '"1"'})).problem(412)
    (await platform.send("DELETE", path)).expect(204)
    (await platform.send("GET", path)).problem(404)
    (await platform.send("DELETE", path)).problem(404)
    log = await entries(platform, 3, resource_id=template["id"])
    assert [entry["action"].rpartition(".")[2] for entry in log] == [
        "DeploymentTemplateCreated",
        "DeploymentTemplateUpdated",
        "DeploymentTemplateDeleted",
    ]
    assert log[1]["before"] == {"plan": "starter", "parameters": PARAMETERS}
    assert log[1]["after"] == {"plan": None, "parameters": {"invoice_prefix": "A1"}}


@pytest.mark.parametrize(
    ("parameters", "pointer"),
    [
        ({"payment_terms_days": 91}, "/payment_terms_days"),
        ({"payment_terms_days": "30"}, "/payment_terms_days"),
        ({"payment_terms_days": None}, "/payment_terms_days"),
        ({"invoice_prefix": "rur"}, "/invoice_prefix"),
        ({"invoice_prefix": ""}, "/invoice_prefix"),
        ({"invoice_prefix": "A-"}, "/invoice_prefix"),
        ({"invoice_prefix": "A\n"}, "/invoice_prefix"),
        ({"starter_plans": [{**PLANS[0], "price_minor": -1}]}, "/starter_plans/0/price_minor"),
        ({"starter_plans": [{**PLANS[0], "code": "a b"}]}, "/starter_plans/0/code"),
        ({"starter_plans": [PLANS[0], {**PLANS[1], "code": "RURAL"}]}, "/starter_plans"),
        ({"starter_plans": PLANS * 26}, "/starter_plans"),
        ({"vlan": 7}, "/vlan"),
    ],
)
async def test_wrong_parameters_are_refused_wherever_they_are_given(
    platform: Api, parameters: dict[str, Any], pointer: str
) -> None:
    template = await made(platform)
    path, tenant = f"{TEMPLATES}/{template['id']}", await registered(platform)
    order = {"template_id": template["id"], "parameters": parameters}
    for answer in (
        await platform.send("POST", TEMPLATES, {"name": "wrong", "parameters": parameters}),
        await platform.send("PATCH", path, {"parameters": parameters}, headers=ANY),
        await platform.send("POST", f"{path}/preview", {"parameters": parameters}),
        await platform.send("POST", f"{V1}/tenants/{tenant['id']}/deployments", order),
    ):
        answer.problem(422)
        assert pointers(answer) == {f"/body/parameters{pointer}"}
    assert (await platform.send("GET", path)).expect(200) == template
    assert (await platform.send("GET", f"{V1}/tenants/{tenant['id']}")).expect(200) == tenant


async def test_an_order_that_does_not_fit_the_template_changes_nothing(platform: Api, stack: Stack) -> None:
    template = await made(platform, plan="premium", parameters={"invoice_prefix": "RUR"})
    tenant = await registered(platform)
    named = {"template_id": template["id"]}
    for order, pointer in (
        ({**named, "parameters": {"payment_terms_days": 3}}, "/body/parameters/payment_terms_days"),
        ({**named, "target": "process"}, "/body/target"),
        ({**named, "operation": "suspend"}, "/body/template_id"),
        ({"template_id": str(new_id())}, "/body/template_id"),
        ({"parameters": {"invoice_prefix": "A"}}, "/body/parameters"),
    ):
        answer = await platform.send("POST", f"{V1}/tenants/{tenant['id']}/deployments", order)
        answer.problem(422)
        assert pointers(answer) == {pointer}
    assert (await platform.send("GET", f"{V1}/tenants/{tenant['id']}")).expect(200) == tenant
    assert await asked(stack, "tenant", "select 1 from deployment_order where tenant_id = $1", tenant["id"]) == []


async def test_templates_are_the_platforms_affair(platform: Api, tenant: Tenant) -> None:
    template = await made(platform)
    path = f"{TEMPLATES}/{template['id']}"
    for method, where in (
        ("GET", TEMPLATES),
        ("POST", TEMPLATES),
        ("GET", path),
        ("PATCH", path),
        ("DELETE", path),
        ("POST", f"{path}/preview"),
        ("POST", f"{V1}/tenants/{tenant.id}/deployments"),
    ):
        (await tenant.api.send(method, where, {"template_id": template["id"]}, headers=ANY)).problem(403)


async def test_a_tenant_is_what_its_template_and_its_order_say(public: Api, platform: Api, stack: Stack) -> None:
    template = await made(platform, plan="premium")
    path, tenant = f"{TEMPLATES}/{template['id']}", await registered(platform, currency="EUR")
    otherwise = {"payment_terms_days": 10}
    preview = (await platform.send("POST", f"{path}/preview", {"parameters": otherwise})).expect(200)
    assert preview == {"target": "pooled", "plan": "premium", "parameters": {**PARAMETERS, **otherwise}}
    isp = await deployed(public, platform, stack, tenant, template_id=template["id"], parameters=otherwise)
    told = isp.deployment["parameters"]
    assert (isp.deployment["template_id"], told["payment_terms_days"], told["invoice_prefix"]) == (
        template["id"],
        10,
        "RUR",
    )
    (order,) = await asked(stack, "tenant", "select * from deployment_order where tenant_id = $1", isp.id)
    assert json.loads(order["parameters"]) == preview["parameters"]
    assert (await platform.send("GET", f"{V1}/tenants/{isp.id}")).expect(200)["plan"] == "premium"
    # What others have is not touched, nor is this one by what becomes of the template.
    (await platform.send("PATCH", path, {"parameters": {"invoice_prefix": "NEW"}}, headers=ANY)).expect(200)
    (await platform.send("DELETE", path)).expect(204)
    assert await plans(isp.api) == {
        plan["code"]: (plan["name"], {"amount_minor": plan["price_minor"], "currency": "EUR"}) for plan in PLANS
    }
    assert (await settings(isp.api, "billing"))["payment_terms_days"] == 10
    await known(isp.api, 10)
    assert (await isp.api.send("GET", f"{V1}/billing-workspace")).expect(200)["invoice_prefix"] == "RUR"
    issued = await invoice(isp.api, "TOWN")
    assert issued["number"] == "RUR-000001"
    due, on = datetime.fromisoformat(issued["due_on"]), datetime.fromisoformat(issued["issued_at"])
    assert (due.date() - on.date()).days == 10
    # It is the tenant's own from then on.
    (await isp.api.send("PATCH", f"{V1}/settings/billing", {"payment_terms_days": 60}, headers=ANY)).expect(200)
    await known(isp.api, 60)


async def test_without_one_all_is_as_usual(public: Api, platform: Api) -> None:
    isp = await deploy(public, platform)
    assert isp.deployment["template_id"] is isp.deployment["parameters"] is None
    assert set(await plans(isp.api)) == {"PHONE", "DSL", "FIBER"}
    workspace = (await isp.api.send("GET", f"{V1}/billing-workspace")).expect(200)
    assert (workspace["invoice_prefix"], workspace["payment_terms_days"]) == ("INV", 14)


async def test_an_instance_of_ones_own_is_prepared_by_it_too(public: Api, platform: Api, stack: Stack) -> None:
    parameters = {"starter_plans": [], "invoice_prefix": "OWN1", "payment_terms_days": 5}
    template = await made(platform, target="process", parameters=parameters)
    isp = await deployed(public, platform, stack, await registered(platform), template_id=template["id"])
    assert isp.deployment["target"] == "process"
    assert await plans(isp.api) == {}
    workspace = (await isp.api.send("GET", f"{V1}/billing-workspace")).expect(200)
    assert (workspace["invoice_prefix"], workspace["payment_terms_days"]) == ("OWN1", 5)


async def test_a_workspace_that_is_prepared_again_stays_as_it_is(stack: Stack, public: Api, platform: Api) -> None:
    template = await made(platform)
    isp = await deployed(public, platform, stack, await registered(platform), template_id=template["id"])
    before = await plans(isp.api)
    issued = await invoice(isp.api, "RURAL")
    (await isp.api.send("PATCH", f"{V1}/settings/billing", {"payment_terms_days": 77}, headers=ANY)).expect(200)
    await known(isp.api, 77)

    def requested(parameters: WorkspaceParameters | None) -> Sequence[Received[WorkspaceRequested]]:
        ids = {"deployment_id": new_id(), "tenant_id": UUID(isp.id)}
        place = {"name": "ISP", "currency": "USD", "country": "US", "time_zone": "UTC"}
        event = WorkspaceRequested(**ids, **place, parameters=parameters)
        now = datetime.now(UTC)
        return [Received(Envelope(new_id(), "/services/test", event.TYPE, now, event.key, event.tenant_id, 1), event)]

    price = Money(amount_minor=1, currency="USD")
    same = WorkspaceParameters(
        payment_terms_days=30,
        invoice_prefix="OTHER",
        starter_plans=(StarterPlan(code="RURAL", name="Another", price=price),),
    )
    async with service_in_process(stack, "billing") as service:
        prepare = workspaces.subscription(service).handlers[WorkspaceRequested]
        async with service.consumer_db.for_tenants([UUID(isp.id)]) as tx:
            await prepare(tx, requested(same))
    assert await plans(isp.api) == before
    workspace = (await isp.api.send("GET", f"{V1}/billing-workspace")).expect(200)
    assert (workspace["invoice_prefix"], workspace["payment_terms_days"]) == ("RUR", 77)
    await billed(isp.api, "2026-02")
    items = (await isp.api.send("GET", f"{V1}/invoices")).expect(200)["items"]
    assert sorted(item["number"] for item in items) == [issued["number"], "RUR-000002"]
