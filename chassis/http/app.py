"""The application factory: what every service's HTTP edge has in common."""

from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.routing import APIRoute

from chassis.http import dead_letters, document, health, problem
from chassis.http.deadline import Deadlines
from chassis.http.observation import Observation
from chassis.http.origin import Origin
from chassis.http.requests import BoundedBodies, StrictHeads
from chassis.service import Microservice, Service


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
    )
    app.state.service = service
    app.state.checks = checks
    problem.install(app)
    app.include_router(health.router)
    for router in microservice.routers:
        app.include_router(router)
    if microservice.routers:
        app.include_router(dead_letters.router(microservice.name))
    document.complete(app)
    # The last one added is the outermost.
    app.add_middleware(Origin)
    app.add_middleware(BoundedBodies, streams=microservice.streams)
    app.add_middleware(document.KnownMethods, document=app.openapi())
    app.add_middleware(StrictHeads)
    app.add_middleware(Deadlines)
    app.add_middleware(Observation, service=microservice.name)
    return app
