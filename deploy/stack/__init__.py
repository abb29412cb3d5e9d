"""The local stack: Kafka, PostgreSQL, the services and the gateway as processes of this machine."""
