"""Clients of the REST API that write without a pause and keep what they were told."""

import asyncio
import contextlib
import itertools
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from cli.client import API
from tests.api import Answer, Api
from tests.chaos.checker import Told
from tests.conftest import Tenant, registration

KINDS = ("tenants", "customers", "subscriptions", "invoices", "payments")
_ANSWER_SECONDS = 15.0
_PATIENCE_SECONDS = 60.0
_ACCOUNT_SECONDS = 5.0  # who waits for a consumer that is away does not write
_AGAIN_SECONDS = 0.05
_READING_SECONDS = 0.2
_BILLING_SECONDS = 2.0  # a run bills everybody who has come so far
_PRICE_MINOR = 4000  # of the plan that everybody takes


@dataclass
class Isp:
    """A tenant, and those of its customers who can be billed, by account."""

    tenant: Tenant
    accounts: list[str] = field(default_factory=list)
    months: int = 0
    """How many were billed."""


@dataclass
class Load:
    """Writes to tenants, customers, subscriptions, invoices and payments, through the gateway."""

    platform: Api
    isps: list[Isp]
    told: Told = field(default_factory=Told)
    acknowledged: Counter[str] = field(default_factory=Counter)
    """Writes, by what they wrote to."""
    repeated: int = 0
    """Requests that were sent again, because they were answered with an error of the server or not at all."""
    _ending: asyncio.Event = field(default_factory=asyncio.Event)
    _ended_at: float = 0.0

    @contextlib.asynccontextmanager
    async def running(self, writers: int = 0) -> AsyncIterator[None]:
        """Write until the block ends; then let every write that was begun come to its answer.

        writers: how many more clients of each tenant only create customers, and wait for nothing else.
        """
        self._ending.clear()
        async with asyncio.TaskGroup() as clients:
            clients.create_task(self._registering())
            for isp in self.isps:
                busy = [self._creating] * writers
                for client in (self._customers, self._customers, self._billing, self._reading, *busy):
                    clients.create_task(client(isp))
            try:
                yield
            finally:
                self._ended_at = time.monotonic()
                self._ending.set()

    async def served(self) -> None:
        """Return once a write of each kind was acknowledged from now on; AssertionError says of which none was."""
        before, missing = Counter(self.acknowledged), list(KINDS)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while missing := [kind for kind in missing if self.acknowledged[kind] <= before[kind]]:
            assert time.monotonic() < deadline, f"no write to {', '.join(missing)} is acknowledged any more"
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _registering(self) -> None:
        """Register an ISP after the other, change it, and see it deployed."""
        while not self._ending.is_set():
            data = registration()
            tenant = await self._write("tenants", self.platform, "POST", f"{API}/tenants", data)
            if tenant is None:
                continue
            path = f"{API}/tenants/{tenant['id']}"
            self._tell("TenantRegistered", tenant["id"], tenant["id"], 1, slug=data["slug"])
            renamed = await self._change(self.platform, path, {"name": f"{data['name']} renamed"}, version=1)
            if renamed is not None:
                self._tell("TenantUpdated", tenant["id"], tenant["id"], 2, name=renamed["name"])
            order = await self._write("tenants", self.platform, "POST", f"{path}/deployments")
            if order is None:
                continue
            deployment = order["deployment_id"]
            self._tell("DeploymentRequested", deployment, tenant["id"], 1)
            await self._until(
                self.platform, f"{API}/deployments/{deployment}", lambda it: it["status"] in ("succeeded", "failed")
            )

    async def _customers(self, isp: Isp) -> None:
        """Create a customer after the other; rename it or let it go, or see its account opened and subscribe it."""
        api, tenant, chance = isp.tenant.api, isp.tenant.id, random.Random(secrets.token_bytes(8))
        while not self._ending.is_set():
            customer = await self._create(isp)
            if customer is None:
                continue
            key, path = customer["id"], f"{API}/customers/{customer['id']}"
            if chance.random() < 0.5:
                name = f"{isp.tenant.slug} renamed"
                changed = await self._change(api, path, {"name": name}, version=1)
                if changed is not None:
                    self._tell("CustomerUpdated", key, tenant, changed["version"], name=name)
            if chance.random() < 0.2:
                gone = await self._write("customers", api, "POST", f"{path}/terminate", {"reason": "moved"})
                if gone is not None:
                    self._tell("CustomerTerminated", key, tenant, gone["version"], reason="moved")
                continue
            params = {"customer_id": key}
            opened = self._until(api, f"{API}/billing-accounts", lambda it: it["items"], params, _ACCOUNT_SECONDS)
            if not await opened:
                continue
            order = {"customer_id": key, "plan_code": "DSL", "started_on": "2000-01-01"}
            subscription = await self._write("subscriptions", api, "POST", f"{API}/subscriptions", order)
            if subscription is not None:
                price = {"amount_minor": _PRICE_MINOR, "currency": "USD"}
                self._tell("SubscriptionActivated", subscription["id"], tenant, 1, customer_id=key, price=price)
                isp.accounts.append(subscription["account_id"])

    async def _creating(self, isp: Isp) -> None:
        while not self._ending.is_set():
            await self._create(isp)

    async def _create(self, isp: Isp) -> Any:
        """Create a customer; None if it was refused."""
        reference = f"{isp.tenant.slug}-{secrets.token_hex(6)}"
        data = {"name": f"{isp.tenant.slug} customer", "external_reference": reference}
        customer = await self._write("customers", isp.tenant.api, "POST", f"{API}/customers", data)
        if customer is not None:
            self._tell("CustomerCreated", customer["id"], isp.tenant.id, 1, external_reference=reference)
        return customer

    async def _billing(self, isp: Isp) -> None:
        """Bill a month after the other, and pay what is owed: in full, in parts, or more than that."""
        api, tenant, chance = isp.tenant.api, isp.tenant.id, random.Random(secrets.token_bytes(8))
        while not await self._ends_within(_BILLING_SECONDS):
            if not isp.accounts:
                continue
            month = f"20{isp.months // 12:02d}-{isp.months % 12 + 1:02d}"
            run = await self._write("invoices", api, "POST", f"{API}/billing-runs", {"period": month})
            if run is None:
                continue
            isp.months += 1
            self.told.runs.append(run["id"])
            path = f"{API}/billing-runs/{run['id']}"
            if not await self._until(api, path, lambda it: it["status"] == "completed"):
                continue
            params = {"period": month, "limit": "10"}
            listed = await self._until(api, f"{API}/invoices", lambda it: it["items"], params) or {"items": []}
            for invoice in listed["items"]:
                self._tell("InvoiceIssued", invoice["id"], tenant, 1, number=invoice["number"], total=invoice["total"])
                amount = {"amount_minor": chance.choice((1000, _PRICE_MINOR, 5000)), "currency": "USD"}
                body = {
                    "account_id": invoice["account_id"],
                    "amount": amount,
                    "method": "cash",
                    "reference": f"{isp.tenant.slug}-{secrets.token_hex(8)}",
                }
                payment = await self._write("payments", api, "POST", f"{API}/payments", body)
                if payment is not None:
                    self._tell(
                        "PaymentReceived", payment["id"], tenant, 1, amount=amount, account_id=body["account_id"]
                    )

    async def _reading(self, isp: Isp) -> None:
        """Look at what there is, all of which must be the tenant's own: references begin with its name."""
        lists = {"customers": "external_reference", "billing-accounts": "external_reference", "payments": "reference"}
        for path, name in itertools.cycle(lists.items()):
            if await self._ends_within(_READING_SECONDS):
                return
            answer = await self._send(isp.tenant.api, "GET", f"{API}/{path}", params={"limit": "100"})
            if answer is not None and answer.status == 200:
                self.told.strangers += [
                    f"{isp.tenant.slug} was shown {item}"
                    for item in answer.body["items"]
                    if not (item[name] or "").startswith(isp.tenant.slug)
                ]

    async def _write(self, kind: str, api: Api, method: str, path: str, body: Any = None) -> Any:
        """Send a write, with one key, until it is answered; return the answer, or None if that is no success."""
        key = {"Idempotency-Key": secrets.token_hex(16)}
        while True:
            answer = await self._send(api, method, path, body, headers=key)
            if answer is not None and answer.status < 300:
                self.acknowledged[kind] += 1
                return answer.body
            in_use = answer is not None and answer.status == 409 and answer.body["type"].endswith("in-use")
            if answer is not None and answer.status < 500 and not in_use:
                self.told.refused.append(f"{method} {path}: {answer.status} {answer.body}")
                return None
            if self._ending.is_set() and time.monotonic() > self._ended_at + _PATIENCE_SECONDS:
                self.told.refused.append(f"{method} {path} was not answered: {answer}")
                return None
            self.repeated += 1
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _change(self, api: Api, path: str, body: Any, version: int) -> Any:
        """Send a change once; None if it is not known whether it was made."""
        answer = await self._send(api, "PATCH", path, body, headers={"If-Match": f'"{version}"'})
        if answer is None or answer.status >= 500:
            return None
        if answer.status != 200:
            self.told.refused.append(f"PATCH {path}: {answer.status} {answer.body}")
            return None
        self.acknowledged[path.split("/")[3]] += 1
        return answer.body

    async def _until(
        self, api: Api, path: str, wanted: Any, params: dict[str, str] | None = None, seconds: float = _PATIENCE_SECONDS
    ) -> Any:
        """Read until what is read is as wanted, and return it; None if the load ends, or the time, before."""
        deadline = time.monotonic() + seconds
        while not self._ending.is_set() and time.monotonic() < deadline:
            answer = await self._send(api, "GET", path, params=params)
            if answer is not None and answer.status == 200 and wanted(answer.body):
                return answer.body
            await asyncio.sleep(_AGAIN_SECONDS)
        return None

    async def _send(self, api: Api, method: str, path: str, body: Any = None, **options: Any) -> Answer | None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await api.send(method, path, body, **options)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def _ends_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        return self._ending.is_set()

    def _tell(self, kind: str, key: str, tenant: str, version: int, **value: Any) -> None:
        self.told.events.append({"type": kind, "key": key, "tenant": tenant, "version": version, "value": value})
