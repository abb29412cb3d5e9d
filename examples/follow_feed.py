"""An outside system that follows a tenant's feed of events over HTTP, and goes on where it was after a restart.

Prints one line of JSON for each event. What it needs: the API's address, a token, and a file to keep its place in.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

import aiohttp


async def follow(api: str, token: str, place: Path, types: list[str]) -> None:
    while True:
        headers = {"Authorization": f"Bearer {token}"}
        params = [("type", name) for name in types]
        position = kept(place)
        if position:
            headers["Last-Event-ID"] = position
        else:
            params.append(("after", "0"))  # from the beginning of what is kept; without it, from now on
        try:
            # A heartbeat comes every ten seconds: a connection that is silent for longer is none.
            timeout = aiohttp.ClientTimeout(total=None, sock_read=30)
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
                session.get(f"{api}/api/v1/events", params=params) as answer,
            ):
                if answer.status in (400, 401, 403, 410):  # to come back would not help
                    sys.exit(await answer.text())
                answer.raise_for_status()
                await read(answer, place)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            print(f"connecting again: {error!r}", file=sys.stderr)
        await asyncio.sleep(1)


async def read(answer: aiohttp.ClientResponse, place: Path) -> None:
    position = data = ""
    async for raw in answer.content:
        name, _, value = raw.decode().rstrip("\n").partition(": ")
        if name == "data":
            data = value
        elif name == "id":
            position = value
        elif not name and not value and position:  # a blank line ends an event, or a heartbeat
            if data:
                event = json.loads(data)
                print(json.dumps({"type": event["type"], "id": event["id"], "data": event["data"]}), flush=True)
            # Once it is handled: after a crash the last one may come again, and has the same id.
            keep(place, position)
            data = ""


def kept(place: Path) -> str | None:
    return place.read_text() if place.exists() else None


def keep(place: Path, position: str) -> None:
    part = place.with_suffix(".part")
    part.write_text(position)
    part.replace(place)  # whole, or as it was before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("api", help="where the API is, as in http://127.0.0.1:8000")
    parser.add_argument("--place", type=Path, default=Path("feed.position"), help="the file that keeps the place")
    parser.add_argument("--type", action="append", default=[], help="a type of events, may be repeated; all without")
    given = parser.parse_args()
    asyncio.run(follow(given.api, os.environ["DOTMAC_TOKEN"], given.place, given.type))
