"""`python -m gateway`: runs the gateway."""

import asyncio

import uvicorn
import uvloop

from chassis import garbage, telemetry
from chassis.security.revocations import Follower, Revocations
from chassis.security.tokens import TokenVerifier
from gateway.server import served
from gateway.settings import GatewaySettings


async def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM, once it is known which tokens are revoked."""
    revocations = Revocations()
    following = Follower("gateway", settings, revocations)
    await following.start()
    config = served(settings, TokenVerifier(settings.jwks_url, revocations))
    garbage.settle()
    try:
        await uvicorn.Server(config).serve()
    finally:
        await following.stop()


def main() -> None:
    """Run it."""
    settings = GatewaySettings()
    telemetry.configure("gateway", settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


if __name__ == "__main__":
    main()
