"""The application factory: what every service's HTTP edge has in common."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict

from chassis.http import health, problem
from chassis.http.observation import Observation
from chassis.service import Microservice, Service


class ProblemDetails(BaseModel):
    """An error by RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


_PROBLEM: dict[str, Any] = {
    "model": ProblemDetails,
    "content": {problem.MEDIA_TYPE: {}},
    "description": "Problem details (RFC 9457)",
}


def _operation_id(route: APIRoute) -> str:
    return route.name


def create_app(microservice: Microservice, service: Service, checks: Mapping[str, health.Check]) -> FastAPI:
    """Return the HTTP application of a running service."""
    app = FastAPI(
        title=microservice.title,
        version="1.0.0",
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        responses={"4XX": _PROBLEM, "5XX": _PROBLEM},
    )
    app.state.service = service
    app.state.checks = checks
    problem.install(app)
    app.include_router(health.router)
    for router in microservice.routers:
        app.include_router(router)
    app.add_middleware(Observation, service=microservice.name)
    return app
