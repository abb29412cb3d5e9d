"""How clients of the broker prove who they are and know whom they talk to: TLS and SASL, from the settings."""

import ssl
from typing import Any

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from chassis.settings import KafkaSettings

_SASL = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}


def _context(settings: KafkaSettings) -> ssl.SSLContext | None:
    if not settings.kafka_security_protocol.endswith("SSL"):
        return None
    # Host names are checked, as by any default context.
    return ssl.create_default_context(cafile=settings.kafka_ca_file)


def client_security(settings: KafkaSettings) -> dict[str, Any]:
    """Return the keyword arguments that secure an aiokafka client: producer, consumer or admin."""
    options: dict[str, Any] = {"security_protocol": settings.kafka_security_protocol}
    if context := _context(settings):
        options["ssl_context"] = context
    if settings.kafka_security_protocol.startswith("SASL"):
        assert settings.kafka_sasl_password is not None
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return options


def broker_security(settings: KafkaSettings) -> BaseSecurity | None:
    """Return the same for a FastStream broker; None where nothing is secured."""
    context = _context(settings)
    if not settings.kafka_security_protocol.startswith("SASL"):
        return BaseSecurity(ssl_context=context) if context else None
    assert settings.kafka_sasl_username is not None
    assert settings.kafka_sasl_password is not None
    kind = _SASL[settings.kafka_sasl_mechanism]
    password = settings.kafka_sasl_password.get_secret_value()
    return kind(settings.kafka_sasl_username, password, ssl_context=context, use_ssl=context is not None)
