"""`make fuzz`: at least as many requests as asked for, from a seed that is printed, on a stack of its own."""

import argparse
import asyncio
import secrets
import sys
import time

from deploy.stack.stack import Stack
from tests.fuzz.campaign import campaign, fuzzed

# A round looks at every operation by itself, a few thousand requests, and then follows links from one to the next.
_ROUND = (("--max-examples", "60"), ("--phases", "stateful", "--max-examples", "60", "--max-time", "60"))


async def fuzz(requests: int, seed: int) -> bool:
    """Repeat with the next seed until enough requests were sent or one was answered wrongly."""
    async with fuzzed(say=print) as stack:
        return await _rounds(stack, requests, seed)


async def _rounds(stack: Stack, requests: int, seed: int) -> bool:
    sent, started = 0, time.perf_counter()
    while sent < requests:
        for options in _ROUND:
            found = await campaign(stack, "--seed", str(seed), *options)
            sent += found.requests
            seconds = time.perf_counter() - started
            print(f"seed {seed}: {found.requests:,} requests; {sent:,} in {seconds:.0f} s", flush=True)
            if not found.clean or not found.requests:
                print(found.report)
                print(f"again with: make fuzz SEED={seed}")
                return False
        seed += 1
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    sys.exit(not asyncio.run(fuzz(arguments.requests, arguments.seed)))


if __name__ == "__main__":
    main()
