"""The path of an event, from the outbox to its effect, beside peers of the same run: `python -m bench.events`."""
