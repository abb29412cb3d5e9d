"""`python -m gateway`: runs the gateway."""

import gc

import uvicorn

from chassis import telemetry
from chassis.security.tokens import TokenVerifier
from gateway.app import Gateway
from gateway.proxy import Proxy
from gateway.settings import GatewaySettings


def main() -> None:
    """Serve until SIGTERM."""
    settings = GatewaySettings()
    telemetry.configure("gateway", log_level=settings.log_level, otlp_endpoint=settings.otlp_endpoint)
    app = Gateway(Proxy(settings, TokenVerifier(settings.jwks_url)))
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
