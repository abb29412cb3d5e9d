"""Starts a service in the roles its settings name: api, consumer, relay; together or apart."""

import asyncio
import contextlib
import importlib
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import structlog
import uvloop
from pydantic import ValidationError

from chassis import garbage, telemetry
from chassis.clock import SystemClock
from chassis.http.app import create_app
from chassis.http.health import Check, watch
from chassis.http.server import DrainingServer, configured
from chassis.messaging import watch as messaging_watch
from chassis.messaging.audience import Audience
from chassis.messaging.broker import ping
from chassis.messaging.consumer import ConsumerRunner
from chassis.messaging.relay import Relay
from chassis.messaging.security import client_security
from chassis.moving import moved_by
from chassis.persistence.database import Database
from chassis.security.following import Follower
from chassis.security.resealing import Resealing, Sealed
from chassis.security.revocations import Revocations
from chassis.security.tokens import TokenVerifier
from chassis.security.vault import Vault
from chassis.service import Microservice, Service
from chassis.settings import Settings
from chassis.worker import Worker

log = structlog.get_logger()

# A request that waits longer holds a connection for an answer that nobody waits for any more.
_REQUEST_LIMITS = {"statement_timeout": "30s", "lock_timeout": "10s"}
_RESEAL_SECONDS = 3600.0
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
    telemetry.configure(microservice.name, settings)
    roles = {role.strip() for role in settings.roles.split(",") if role.strip()}
    if not roles or roles - ROLES:
        sys.exit(f"ROLES must name some of {', '.join(sorted(ROLES))}; it is {settings.roles!r}")
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    async with contextlib.AsyncExitStack() as stack:
        revocations = Revocations()
        service = Service(
            name=microservice.name,
            settings=settings,
            db=Database(settings.database_url, application_name=f"{microservice.name}-api", limits=_REQUEST_LIMITS),
            consumer_db=Database(settings.consumer_database_url, application_name=f"{microservice.name}-consumer"),
            clock=SystemClock(),
            tokens=TokenVerifier(settings.jwks_url, revocations),
            vault=Vault(*settings.sealing_secrets),
        )
        # A process has, and checks, only what its roles need: an API fills its outbox while the broker is away.
        checks: dict[str, Check] = {}
        for role, database in (("api", service.db), ("consumer", service.consumer_db)):
            if role in roles:
                await database.connect()
                stack.push_async_callback(database.close)
                checks[f"database as {role}"] = database.ping
        if settings.dedicated_to is not None:
            service = replace(service, moved_by=await moved_by(service.consumer_db))
        if roles != {"api"}:
            checks["broker"] = partial(ping, settings.kafka_bootstrap_servers, security=client_security(settings))
        if "relay" in roles:
            relay = Relay(settings, microservice.name)
            task = asyncio.create_task(relay.run(), name="relay")
            stack.push_async_callback(_cancelled, task)
            measuring = messaging_watch.outbox(settings.relay_database_url, microservice.name)
            stack.push_async_callback(_cancelled, asyncio.create_task(measuring, name="outbox-watch"))
            checks["relay"] = _healthy("the relay is not connected", relay)
        if "consumer" in roles:
            audience = Audience(settings.dedicated_to, service.moved_by) if microservice.dedicable else None
            consumers = ConsumerRunner(settings, service.consumer_db, microservice.subscriptions(service), audience)
            await consumers.start()
            stack.push_async_callback(consumers.stop)
            checks["consumer"] = _healthy("a consumer is not connected", consumers)
            for worker in (*microservice.workers(service), *_resealing(microservice, service)):
                service.workers[worker.name] = worker
                worker.start()
                stack.push_async_callback(worker.stop)
                checks[f"worker {worker.name}"] = _healthy("it has stopped", worker)
        if "api" in roles:
            await microservice.prepare(service)
            for listener in microservice.listeners(service):
                service.listeners[listener.channel] = listener
                listener.start()
                stack.push_async_callback(listener.stop)
                checks[f"listener {listener.channel}"] = _healthy("it is not connected", listener)
            following = Follower(microservice.name, settings, revocations, service.standings)
            stack.push_async_callback(following.stop)
            await following.start()
        # A process without the API still answers health and metrics, on the same port.
        app = create_app(
            microservice if "api" in roles else Microservice(microservice.name, microservice.title),
            service,
            checks,
        )
        server = DrainingServer(
            configured(
                app,
                settings.host,
                settings.port,
                certificate=settings.tls_certificate_file,
                key=settings.tls_key_file,
                trusted_proxies=settings.trusted_proxies,
            )
        )
        stack.push_async_callback(_cancelled, asyncio.create_task(watch(microservice.name, checks), name="checks"))
        garbage.settle()
        serving = asyncio.create_task(server._serve(), name="http")
        stopped = asyncio.create_task(stopping.wait())
        log.info("started", service=microservice.name, roles=sorted(roles), port=settings.port)
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for listener in service.listeners.values():
            listener.end()  # answers that go on end now, and their clients ask another instance
        await server.drain(settings.drain_seconds)
        server.should_exit = True
        await serving
    log.info("stopped", service=microservice.name)


def _resealing(microservice: Microservice, service: Service) -> Sequence[Worker]:
    """Return what seals anew, while there is a former secret to be got rid of."""
    if service.settings.secret_key_previous is None or not microservice.sealed:
        return ()
    columns = [Sealed(*place) for place in microservice.sealed]
    return [Worker("resealing", Resealing(service, columns).step, poll_seconds=_RESEAL_SECONDS)]


class _Part(Protocol):
    @property
    def healthy(self) -> bool: ...


def _healthy(reason: str, part: _Part) -> Check:
    async def check() -> None:
        if not part.healthy:
            raise RuntimeError(reason)

    return check


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
