"""An outside system that installed only `dotmac-contracts` and a Kafka client: counts customers and invoices.

Prints one line of JSON whenever the figures of the given tenant changed, until it is terminated.
"""

import argparse
import asyncio
import json
import os
import sys
from uuid import UUID

from aiokafka import AIOKafkaConsumer

from dotmac_contracts.billing import InvoiceIssued
from dotmac_contracts.customer import CustomerCreated
from dotmac_contracts.envelope import DecodeError, decode
from dotmac_contracts.topics import BILLING_INVOICE, CUSTOMER


async def follow(tenant: UUID) -> None:
    seen: set[UUID] = set()
    customers = invoices = amount_minor = 0
    currencies: set[str] = set()
    consumer = AIOKafkaConsumer(
        CUSTOMER.name,
        BILLING_INVOICE.name,
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        auto_offset_reset="earliest",
    )
    async with consumer:
        while True:
            batches = await consumer.getmany(timeout_ms=500)
            before = len(seen)
            for record in (record for records in batches.values() for record in records):
                try:
                    envelope, event = decode(record.headers, record.value)
                except DecodeError as error:  # of a type that is newer than these contracts, or no event at all
                    print(f"passed over: {error}", file=sys.stderr)
                    continue
                # Delivery is at least once: an event that comes again has the same id.
                if envelope.tenantid != tenant or envelope.id in seen:
                    continue
                seen.add(envelope.id)
                if isinstance(event, CustomerCreated):
                    customers += 1
                elif isinstance(event, InvoiceIssued):
                    invoices += 1
                    amount_minor += event.total.amount_minor
                    currencies.add(event.total.currency)
            if len(seen) != before:
                figures = {
                    "events": len(seen),
                    "customers": customers,
                    "invoices": invoices,
                    "amount_minor": amount_minor,
                    "currencies": sorted(currencies),
                }
                print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tenant", type=UUID, help="the tenant to count for")
    asyncio.run(follow(parser.parse_args().tenant))
