"""Every service is replaced under load by an instance beside it, and no request and no event is lost."""

import asyncio
from collections import Counter

import aiohttp

from deploy.roles import SERVICES
from deploy.stack.stack import Stack
from tests.api import Api, eventually
from tests.conftest import deploy

V1 = "/api/v1"
CLIENTS = 6


class Load:
    """Clients that write and read without a pause, and keep what was not answered as it should be."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._stopping = False
        self.answered: Counter[str] = Counter()
        self.lost: list[str] = []

    async def run(self, client: int) -> None:
        number = 0
        while not self._stopping:
            number += 1
            customer = {"name": f"Client {client} of load", "external_reference": f"load-{client}-{number}"}
            created = await self._ask("POST", "/customers", customer)
            if created is not None:
                await self._ask("GET", f"/customers/{created['id']}")
            plan = {"code": f"L-{client}-{number}", "name": "Load", "price": {"amount_minor": 1, "currency": "USD"}}
            await self._ask("POST", "/plans", plan)
            await self._ask("GET", "/deployments")
            await self._ask("GET", "/billing-accounts/summary")

    async def _ask(self, method: str, path: str, body: object = None) -> dict[str, str] | None:
        try:
            answer = await self._api.send(method, V1 + path, body)
        except aiohttp.ClientError as error:
            self.lost.append(f"{method} {path}: {error!r}")
            return None
        if answer.status not in (200, 201):
            self.lost.append(f"{method} {path}: {answer.status} {answer.body}")
            return None
        self.answered[f"{method} {path.split('/')[1]}"] += 1
        created: dict[str, str] = answer.body
        return created

    def stop(self) -> None:
        self._stopping = True


async def test_every_service_is_replaced_under_load_and_nothing_is_lost(
    stack: Stack, public: Api, platform: Api
) -> None:
    isp = await deploy(public, platform)
    load = Load(isp.api)
    clients = [asyncio.create_task(load.run(client)) for client in range(CLIENTS)]
    for name in SERVICES:
        before, first = load.answered.total(), stack.children[name].pid
        await stack.replace_service(name)
        assert stack.children[name].pid != first

        async def goes_on(before: int = before) -> bool:
            return load.answered.total() > before + 10 * CLIENTS

        await eventually(goes_on)
    load.stop()
    await asyncio.gather(*clients)
    assert load.lost == []
    customers = load.answered["POST customers"]

    async def opened() -> bool:
        return bool((await isp.api.send("GET", f"{V1}/billing-accounts/summary")).expect(200)["count"] == customers)

    await eventually(opened)
    # The platform's own part goes on as well: its services were replaced too.
    await deploy(public, platform)
