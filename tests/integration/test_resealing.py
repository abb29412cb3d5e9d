"""What a former secret sealed is sealed anew, of every tenant, and what somebody has just written stays."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import pytest

from chassis.security.resealing import FORMER, Resealing, Sealed
from chassis.security.vault import Vault
from chassis.service import Microservice
from deploy.roles import SERVICES
from deploy.stack.stack import Stack
from tests.api import Api
from tests.conftest import Tenant
from tests.deployments import past_security
from tests.in_process import service_in_process

V1 = "/api/v1"
ANY = {"If-Match": "*"}
NEXT = "the secret that is to come, of more than 32 characters"


def places(service: str) -> list[Sealed]:
    microservice: Microservice = import_module(f"services.{service}.app").MICROSERVICE
    return [Sealed(*place) for place in microservice.sealed]


@asynccontextmanager
async def resealing(stack: Stack, service: str, *secrets: str) -> AsyncIterator[Resealing]:
    async with service_in_process(stack, service, *secrets) as parts:
        yield Resealing(parts, places(service))


async def through(work: Resealing) -> None:
    while await work.step():
        pass


async def sealed(stack: Stack, service: str) -> list[bytes]:
    found: list[bytes] = []
    async with past_security(stack, service) as database:
        for place in places(service):
            query = f"select {place.column} from {place.table} where {place.column} is not null"
            found += [row[0] for row in await database.fetch(query)]
    return found


async def test_every_column_that_is_sealed_for_good_is_known(stack: Stack) -> None:
    # Hashes, a name that is hashed, and what is published are bytes too; answers are kept for a day.
    known = {"idempotency_key.body", "feed_event.document", "sign_in_attempts.account"}
    for service in SERVICES:
        async with past_security(stack, service) as database:
            rows = await database.fetch(
                "select table_name || '.' || column_name as place from information_schema.columns"
                " where table_schema = 'public' and data_type = 'bytea' and column_name !~ 'hash|digest'"
                " and table_name !~ '^(outbox|journal|dead_letter)'"
            )
        found = {row["place"] for row in rows} - known
        assert found == {f"{place.table}.{place.column}" for place in places(service)}, service


@pytest.mark.parametrize("service", ["tenant", "integration"])
async def test_what_the_former_secret_sealed_is_sealed_anew(
    stack: Stack, platform: Api, isp: Tenant, other: Tenant, service: str
) -> None:
    for api in (platform, isp.api, other.api):
        secret = {"smtp_password": "to be sealed"}
        (await api.send("PATCH", f"{V1}/settings/notifications", secret, headers=ANY)).expect(200)
    (await isp.api.send("POST", f"{V1}/webhook-endpoints", {"url": "https://t.example/"})).expect(201)
    present = stack._secrets["SECRET_KEY"]
    plain = sorted(Vault(present).open(value) for value in await sealed(stack, service))
    assert plain

    def left() -> Any:
        return FORMER.labels(service)._value.get()

    try:
        async with resealing(stack, service, NEXT, present) as work:
            await through(work)
            assert left() == len(plain)
            anew = await sealed(stack, service)
            assert sorted(Vault(NEXT).open(value) for value in anew) == plain
            await through(work)
            assert left() == 0
            assert await sealed(stack, service) == anew
    finally:
        async with resealing(stack, service, present, NEXT) as work:
            await through(work)
    assert sorted(Vault(present).open(value) for value in await sealed(stack, service)) == plain
