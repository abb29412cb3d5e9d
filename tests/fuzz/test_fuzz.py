"""A short run of the fuzzer as part of the tests; `make fuzz` is the long one."""

import os

import pytest

from tests.fuzz.campaign import campaign, fuzzed


@pytest.mark.timeout(900)
async def test_every_operation_answers_as_its_document_says() -> None:
    seed = os.environ.get("SEED") or "1"  # always the same: what fails tells of a change
    async with fuzzed(say=print) as stack:
        found = await campaign(stack, "--seed", seed, "--max-examples", "6", "--no-shrink")
    assert found.clean, f"SEED={seed}\n{found.report}"
    # A run that stops early finds nothing either.
    assert found.requests > 1_000, found.report
