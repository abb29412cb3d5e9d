"""The HTTP edge of a service: application factory, problem details, pagination, idempotency, health."""
