"""What the brokers of the local stack have in common."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from chassis.messaging.broker import BrokerError, ensure_topics, ping
from deploy.stack.folder import Folder
from deploy.stack.processes import Child, StackError

_PATIENCE_SECONDS = 120  # it may have logs to recover


class Broker(ABC):
    """A broker that the stack runs."""

    idempotence: bool
    """Whether it knows the idempotent producer."""
    security: Mapping[str, Any] = MappingProxyType({})
    """How a client has to connect, as aiokafka's arguments."""

    def __init__(self, folder: Folder, port: int) -> None:
        self._folder = folder
        self._port = port
        self._log = folder.logs / "kafka.log"
        self.child: Child | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._port}"

    @abstractmethod
    async def start(self) -> None:
        """Start it and wait until it answers."""

    async def create_topics(self) -> list[str]:
        """Create the topics of the contracts that there are not, and return their names; BrokerError if it can't be."""
        return await ensure_topics(self.bootstrap_servers, security=self.security)

    async def stop(self) -> None:
        """Stop it; data on disk stays."""
        if self.child:
            await self.child.stop()

    async def answers(self) -> None:
        """Return once it answers; StackError with the end of its log if it can't."""
        assert self.child is not None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while True:
                    self.child.raise_if_dead()
                    try:
                        # A bare connection first: the client would log, and take its time, at each attempt.
                        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                        writer.close()
                        await ping(self.bootstrap_servers, security=self.security)
                    except (OSError, BrokerError):
                        await asyncio.sleep(0.05)
                    else:
                        return
        except TimeoutError:
            raise StackError(
                f"{self.child.name} does not answer on {self.bootstrap_servers}. {self.child.said()}"
            ) from None
