"""An outside system that is new: learns which customers a tenant has now, without history, and forgets who is gone.

Prints one line of JSON whenever that changed, until it is terminated.
"""

import argparse
import asyncio
import json
import os
import sys
from uuid import UUID

from aiokafka import AIOKafkaConsumer

from dotmac_contracts.customer import CustomerSnapshot
from dotmac_contracts.envelope import DecodeError, Tombstone, decode
from dotmac_contracts.topics import CUSTOMER_SNAPSHOT


async def follow(tenant: UUID) -> None:
    known: dict[str, str] = {}
    consumer = AIOKafkaConsumer(
        CUSTOMER_SNAPSHOT.name,
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        auto_offset_reset="earliest",
    )
    async with consumer:
        while True:
            batches = await consumer.getmany(timeout_ms=500)
            before = dict(known)
            for record in (record for records in batches.values() for record in records):
                try:
                    envelope, event = decode(record.headers, record.value)
                except DecodeError as error:  # of a type that is newer than these contracts, or no event at all
                    print(f"passed over: {error}", file=sys.stderr)
                    continue
                if envelope.tenantid != tenant:
                    continue
                # The last record of a key says all there is to know; one without a value, that there is nothing.
                if isinstance(event, Tombstone):
                    known.pop(event.key, None)
                elif isinstance(event, CustomerSnapshot):
                    known[event.key] = event.name
            if known != before:
                print(json.dumps({"customers": sorted(known.values())}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tenant", type=UUID, help="the tenant whose customers these are")
    asyncio.run(follow(parser.parse_args().tenant))
