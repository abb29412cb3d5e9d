"""The published language of the DotMac Platform: events, topics and their envelope. No I/O, pydantic only."""

from dotmac_contracts import billing, customer, gateway, integration, provisioning, tenant
from dotmac_contracts.envelope import (
    EVENTS,
    DecodeError,
    Envelope,
    Event,
    Record,
    Tombstone,
    UnknownEventType,
    decode,
    encode,
    structured,
)
from dotmac_contracts.money import Money
from dotmac_contracts.topics import ALL, Topic

__all__ = [
    "ALL",
    "EVENTS",
    "DecodeError",
    "Envelope",
    "Event",
    "Money",
    "Record",
    "Tombstone",
    "Topic",
    "UnknownEventType",
    "billing",
    "customer",
    "decode",
    "encode",
    "gateway",
    "integration",
    "provisioning",
    "structured",
    "tenant",
]
