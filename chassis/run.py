"""Starts a service in the roles its settings name: api, consumer, relay; together or apart."""

import asyncio
import contextlib
import gc
import importlib
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial

import structlog
import uvicorn
import uvloop
from pydantic import ValidationError

from chassis import telemetry
from chassis.clock import SystemClock
from chassis.http.app import create_app
from chassis.http.health import Check
from chassis.messaging.broker import ping
from chassis.messaging.consumer import ConsumerRunner
from chassis.messaging.relay import Relay
from chassis.persistence.database import Database
from chassis.security.tokens import TokenVerifier
from chassis.service import Microservice, Service
from chassis.settings import Settings
from chassis.worker import Worker

log = structlog.get_logger()

ROLES = frozenset({"api", "consumer", "relay"})


def main(module: str) -> None:
    """Run the service whose `MICROSERVICE` is in `module`; a broken module ends the process."""
    try:
        microservice: Microservice = importlib.import_module(module).MICROSERVICE
    except Exception as error:
        traceback.print_exc()
        broken = _broken_module(error) or module
        sys.exit(f"{module} does not start: the module {broken} can't be imported: {type(error).__name__}: {error}")
    try:
        settings = Settings()
    except ValidationError as error:
        # Never the input: a setting may be a secret.
        reasons = "; ".join(f"{'.'.join(map(str, item['loc']))} {item['msg']}" for item in error.errors())
        sys.exit(f"{microservice.name} does not start: {reasons}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(microservice, settings))


def _broken_module(error: BaseException) -> str | None:
    """Return the file where an import failed."""
    if isinstance(error, SyntaxError):
        return error.filename
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame.filename for frame in frames if "importlib" not in frame.filename]
    return ours[-1] if len(ours) > 1 else None


async def serve(microservice: Microservice, settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then stop in order: no new requests, consumers, relay, connections."""
    telemetry.configure(microservice.name, log_level=settings.log_level, otlp_endpoint=settings.otlp_endpoint)
    roles = {role.strip() for role in settings.roles.split(",") if role.strip()}
    if not roles or roles - ROLES:
        sys.exit(f"ROLES must name some of {', '.join(sorted(ROLES))}; it is {settings.roles!r}")
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    async with contextlib.AsyncExitStack() as stack:
        service = Service(
            name=microservice.name,
            settings=settings,
            db=Database(settings.database_url, application_name=f"{microservice.name}-api"),
            consumer_db=Database(settings.consumer_database_url, application_name=f"{microservice.name}-consumer"),
            clock=SystemClock(),
            tokens=TokenVerifier(settings.jwks_url),
        )
        for database in (service.db, service.consumer_db):
            await database.connect()
            stack.push_async_callback(database.close)

        async def broker() -> None:
            await ping(settings.kafka_bootstrap_servers)

        checks: dict[str, Check] = {"database": service.db.ping, "broker": broker}
        if "relay" in roles:
            relay = Relay(settings, microservice.name)
            task = asyncio.create_task(relay.run(), name="relay")
            stack.push_async_callback(_cancelled, task)
            checks["relay"] = _healthy("the relay is not connected", lambda: relay.healthy)
        if "consumer" in roles:
            consumers = ConsumerRunner(settings, service.consumer_db, microservice.subscriptions(service))
            await consumers.start()
            stack.push_async_callback(consumers.stop)
            checks["consumer"] = _healthy("a consumer is not connected", lambda: consumers.healthy)
            for worker in microservice.workers(service):
                service.workers[worker.name] = worker
                worker.start()
                stack.push_async_callback(worker.stop)
                checks[f"worker {worker.name}"] = _healthy("it has stopped", partial(_runs, worker))
        if "api" in roles:
            await microservice.prepare(service)
        # A process without the API still answers health and metrics, on the same port.
        app = create_app(
            microservice if "api" in roles else Microservice(microservice.name, microservice.title),
            service,
            checks,
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=10,
                server_header=False,
            )
        )
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        serving = asyncio.create_task(server._serve(), name="http")
        stopped = asyncio.create_task(stopping.wait())
        log.info("started", service=microservice.name, roles=sorted(roles), port=settings.port)
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        server.should_exit = True
        await serving
    log.info("stopped", service=microservice.name)


def _healthy(reason: str, probe: Callable[[], bool]) -> Check:
    async def check() -> None:
        if not probe():
            raise RuntimeError(reason)

    return check


def _runs(worker: Worker) -> bool:
    return worker.healthy


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
