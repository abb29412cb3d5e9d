"""Liveness, readiness and metrics. Ready means: what this process needs to do its job answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from chassis.http.responses import json

Check = Callable[[], Awaitable[None]]
"""Returns when its part is well, and raises with the reason when it isn't."""

CHECK_OK = Gauge("dotmac_check_ok", "1 if a part that the process needs answers.", ["service", "check"])
_WATCH_SECONDS = 10.0

router = APIRouter(include_in_schema=False)


@router.get("/health/live")
async def live() -> Response:
    """Say that the process runs."""
    return json({"status": "alive"})


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """Say whether each part that this process needs is well: 200, or 503 with the reasons."""
    parts = await outcomes(request.app.state.checks)
    well = all(result == "ok" for result in parts.values())
    return json({"status": "ready" if well else "not ready", "checks": parts}, 200 if well else 503)


async def outcomes(checks: Mapping[str, Check]) -> dict[str, str]:
    """Return for each check `ok`, or what is wrong."""
    return dict(zip(checks, await asyncio.gather(*(_outcome(check) for check in checks.values())), strict=True))


async def watch(service: str, checks: Mapping[str, Check]) -> None:
    """Keep the outcomes as metrics until cancelled, so that there is an alert without a probe."""
    while True:
        for check, outcome in (await outcomes(checks)).items():
            CHECK_OK.labels(service, check).set(outcome == "ok")
        await asyncio.sleep(_WATCH_SECONDS)


async def _outcome(check: Check) -> str:
    try:
        async with asyncio.timeout(3):
            await check()
    except Exception as error:
        return str(error) or type(error).__name__
    return "ok"


@router.get("/metrics")
async def metrics() -> Response:
    """Give the metrics in the Prometheus text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
