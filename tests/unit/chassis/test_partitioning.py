from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from chassis.messaging.partitioning import partition_of

others = DefaultPartitioner()


@given(st.binary(min_size=1, max_size=80), st.integers(1, 50))
def test_a_key_belongs_where_any_other_client_puts_it(key: bytes, partitions: int) -> None:
    places = list(range(partitions))
    assert partition_of(key, partitions) == others(key, places, places)
