"""What other systems are sent, in figures for charts and alerts."""

from prometheus_client import Counter, Gauge, Histogram

STREAMS = Gauge("dotmac_feed_streams", "Readers of the feed that are connected.")
ATTEMPTS = Counter("dotmac_webhook_attempts_total", "Attempts to deliver an event to a webhook endpoint.", ["outcome"])
ATTEMPT_SECONDS = Histogram(
    "dotmac_webhook_attempt_seconds",
    "Time until an endpoint had answered, or had not.",
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30),
)
DISABLED = Counter("dotmac_webhook_endpoints_disabled_total", "Endpoints disabled because they failed for too long.")

for _outcome in ("succeeded", "failed"):  # known beforehand, so that the first failure is an increase
    ATTEMPTS.labels(_outcome)
