"""Events: from a use case's transaction to Kafka (outbox, relay, journal), and from Kafka to an effect (inbox)."""
