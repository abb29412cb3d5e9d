"""An outside system that subscribes with FastStream and `dotmac-contracts`: prints each invoice of a tenant."""

import asyncio
import json
import os
import sys
from uuid import UUID

from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage

from dotmac_contracts.billing import InvoiceIssued
from dotmac_contracts.envelope import DecodeError, decode
from dotmac_contracts.topics import BILLING_INVOICE

broker = KafkaBroker(os.environ["KAFKA_BOOTSTRAP_SERVERS"], logger=None)
app = FastStream(broker, logger=None)
tenant = UUID(sys.argv[1])


@broker.subscriber(
    BILLING_INVOICE.name,
    group_id=f"invoices-of-{tenant}",
    auto_offset_reset="earliest",
    # By default an event is taken for done before it is: here it comes again if it fails.
    ack_policy=AckPolicy.NACK_ON_ERROR,
)
async def invoice(message: KafkaMessage) -> None:
    record = message.raw_message
    try:
        envelope, event = decode(record.headers, record.value)
    except DecodeError as error:  # of a type that is newer than these contracts, or no event at all
        print(f"passed over: {error}", file=sys.stderr)
        return
    if envelope.tenantid == tenant and isinstance(event, InvoiceIssued):
        print(
            json.dumps({"id": str(envelope.id), "number": event.number, "total": event.total.amount_minor}), flush=True
        )


if __name__ == "__main__":
    asyncio.run(app.run())
