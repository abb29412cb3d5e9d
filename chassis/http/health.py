"""Liveness, readiness and metrics. Ready means: what this process needs to do its job answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from chassis.http.responses import json

Check = Callable[[], Awaitable[None]]
"""Returns when its part is well, and raises with the reason when it isn't."""

router = APIRouter(include_in_schema=False)


@router.get("/health/live")
async def live() -> Response:
    """Say that the process runs."""
    return json({"status": "alive"})


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """Say whether each part that this process needs is well: 200, or 503 with the reasons."""
    checks: Mapping[str, Check] = request.app.state.checks
    results = await asyncio.gather(*(_outcome(check) for check in checks.values()))
    parts = dict(zip(checks, results, strict=True))
    well = all(result == "ok" for result in results)
    return json({"status": "ready" if well else "not ready", "checks": parts}, 200 if well else 503)


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
