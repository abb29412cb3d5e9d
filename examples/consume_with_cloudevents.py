"""An outside system that knows nothing of the platform but CloudEvents: prints each invoice of a tenant."""

import asyncio
import json
import os
import sys

from aiokafka import AIOKafkaConsumer
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat


async def follow(tenant: str) -> None:
    consumer = AIOKafkaConsumer(
        "billing.invoice.v1",
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        auto_offset_reset="earliest",
    )
    async with consumer:
        async for record in consumer:
            message = KafkaMessage(headers=dict(record.headers), key=record.key, value=record.value)
            event = from_binary(message, JSONFormat())
            if event.get_extension("tenantid") == tenant and event.get_type() == "dotmac.billing.InvoiceIssued":
                data = event.get_data()
                total = data["total"]["amount_minor"]
                print(json.dumps({"id": event.get_id(), "number": data["number"], "total": total}), flush=True)


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1]))
