"""Sends an event to an endpoint, by HTTP, and to no address that was not checked."""

import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from socket import AddressFamily

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from dotmac_contracts.envelope import STRUCTURED_TYPE
from services.integration.domain.addresses import Refused, check_address, check_host
from services.integration.domain.signature import sign

_EXCERPT = 1024
_NOT_PUBLIC = "its host has no public address"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt: the status that was answered, or why nothing was."""

    milliseconds: int
    status: int | None = None
    error: str | None = None
    response: str | None = None
    """The beginning of what was answered."""
    retry_after: timedelta | None = None

    @property
    def delivered(self) -> bool:
        """Whether the endpoint took the event."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the endpoint says that it wants nothing any more."""
        return self.status == 410


class CheckedResolver(AbstractResolver):
    """Gives addresses only if all of a name's may be sent to. The connection goes to what it gave, and asks no more."""

    def __init__(self, resolver: AbstractResolver, *, allow_loopback: bool) -> None:
        self._resolver = resolver
        self._allow_loopback = allow_loopback

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AddressFamily.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            try:
                check_address(ipaddress.ip_address(result["host"]), allow_loopback=self._allow_loopback)
            except Refused as error:
                raise OSError(_NOT_PUBLIC) from error
        return found

    async def close(self) -> None:
        await self._resolver.close()


class Sender:
    """A client that follows no redirect, keeps no cookie, and takes in little. Made while the event loop runs."""

    def __init__(
        self, *, timeout_seconds: float, allow_loopback: bool, resolver: AbstractResolver | None = None
    ) -> None:
        self._allow_loopback = allow_loopback
        checked = CheckedResolver(resolver or ThreadedResolver(), allow_loopback=allow_loopback)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=checked, use_dns_cache=False, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            auto_decompress=False,
            headers={"User-Agent": "DotMac-Webhooks/1", "Content-Type": STRUCTURED_TYPE},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def send(self, url: str, secrets: Sequence[str], message_id: str, body: bytes) -> Outcome:
        """Send an event, signed by each secret, and say what became of it; whatever that is, nothing is raised.

        What is told of errors tells nothing of the network that the platform is in.
        """
        timestamp, started = int(time.time()), time.perf_counter()
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(secrets, message_id, timestamp, body),
        }
        status: int | None = None
        error: str | None = None
        response, retry_after = b"", None
        try:
            place = URL(url)
            # An address, or what the client takes for one, is not resolved.
            check_host(place.host or "", allow_loopback=self._allow_loopback)
            async with self._session.post(place, data=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
                retry_after = _seconds(answer.headers.get("Retry-After"))
                response = await _beginning(answer.content)
                answer.close()  # whatever more there is
        except (Refused, ValueError):
            error = _NOT_PUBLIC
        except aiohttp.ClientConnectorDNSError as failure:
            error = _NOT_PUBLIC if _NOT_PUBLIC in str(failure.os_error) else "its host can't be resolved"
        except TimeoutError:
            error = None if status else "it did not answer in time"
        except aiohttp.ClientConnectorCertificateError:
            error = "its certificate is not valid"
        except aiohttp.ClientSSLError:
            error = "no secure connection could be made"
        except aiohttp.ClientConnectorError:
            error = "it can't be reached"
        except (aiohttp.ClientError, OSError):
            error = None if status else "it broke the connection off"
        if status is not None and not 200 <= status < 300:
            error = f"it answered {status}"
        return Outcome(
            round((time.perf_counter() - started) * 1000),
            status,
            error,
            response.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}") if status else None,
            retry_after,
        )


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    taken = b""
    while len(taken) < _EXCERPT and (piece := await content.read(_EXCERPT - len(taken))):
        taken += piece
    return taken


def _seconds(value: str | None) -> timedelta | None:
    return timedelta(seconds=int(value)) if value and value.isascii() and value.isdigit() and len(value) < 9 else None
