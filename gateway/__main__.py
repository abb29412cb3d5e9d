"""`python -m gateway`: runs the gateway."""

import asyncio

import uvicorn
import uvloop

from chassis import garbage, telemetry
from chassis.security.following import Follower
from chassis.security.revocations import Revocations
from chassis.security.tokens import TokenVerifier
from gateway.placements import Placements
from gateway.server import served
from gateway.settings import GatewaySettings
from gateway.tenants import Tenants


async def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM, once it is known which tokens are revoked, what holds for which tenant, and where it is."""
    revocations, tenants, placements = Revocations(), Tenants(), Placements()
    following = Follower("gateway", settings, revocations, tenants, placements)
    await following.start()
    config = served(settings, TokenVerifier(settings.jwks_url, revocations), tenants, placements)
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
