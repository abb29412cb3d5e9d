"""What a process tells of itself: logs in JSON, traces by OpenTelemetry, metrics for Prometheus. Set up once, at start.

Nothing here knows a domain. A metric is defined beside the code that moves it; the rules for all of them are in
`docs/architecture/observability.md`.
"""

from chassis.settings import TelemetrySettings
from chassis.telemetry import logs, traces


def configure(service: str, settings: TelemetrySettings) -> None:
    """Log and trace as `service`."""
    logs.configure(service, settings.log_level)
    traces.configure(service, settings.otlp_endpoint, settings.trace_ratio)
