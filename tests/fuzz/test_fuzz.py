"""A short run of the fuzzer as part of the tests; `make fuzz` is the long one."""

import os
import secrets
from pathlib import Path

import pytest

from cli.client import API
from deploy.stack.stack import Stack
from tests.conftest import Tenant
from tests.fuzz.campaign import campaign, identities


@pytest.mark.timeout(900)
async def test_every_operation_answers_as_its_document_says(
    stack: Stack, tenant: Tenant, other: Tenant, tmp_path: Path
) -> None:
    seed = os.environ.get("SEED") or str(secrets.randbelow(2**31))
    who = identities(stack, tenant, other)
    options = ("--seed", seed, "--max-examples", "10", "--no-shrink")
    found = await campaign(stack.gateway_url, who, tmp_path, *options)
    for api in (tenant.api, other.api):  # else the tests that follow would have theirs tried for days
        endpoints = (await api.send("GET", f"{API}/webhook-endpoints")).expect(200)["items"]
        for endpoint in endpoints:
            (await api.send("DELETE", f"{API}/webhook-endpoints/{endpoint['id']}")).expect(204)
    assert found.clean, f"SEED={seed}\n{found.report}"
    # A run that stops early finds nothing either.
    assert found.requests > 1_000, found.report
