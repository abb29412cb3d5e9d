"""How far a consumer has read, also after the broker came back without its records."""

from aiokafka import AIOKafkaConsumer, TopicPartition


async def positions(consumer: "AIOKafkaConsumer[bytes, bytes]") -> dict[TopicPartition, tuple[int, int]]:
    """Return how far each partition is read, and where it ends; one that ends before is read from its beginning.

    A broker that has lost its records counts anew, and not each tells who asks for what is beyond the end.
    """
    read = {partition: await consumer.position(partition) for partition in consumer.assignment()}
    if not read:
        return {}
    ends = await consumer.end_offsets(list(read))
    if lost := [partition for partition, end in ends.items() if read[partition] > end]:
        await consumer.seek_to_beginning(*lost)
    return {partition: (read[partition], end) for partition, end in ends.items()}
