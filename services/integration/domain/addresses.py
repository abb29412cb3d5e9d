"""Where webhooks may go: to public addresses, so that nobody reaches by them what only the platform reaches."""

import ipaddress
import re
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Of IPv6 what is global unicast, without the ranges that carry an IPv4 address to somebody who unpacks it.
_GLOBAL = ipaddress.IPv6Network("2000::/3")
_CARRIERS = (ipaddress.IPv6Network("2001::/32"), ipaddress.IPv6Network("2002::/16"))
# What a resolver, or a client, may take for an address though it is not written as one: 127.1, 2130706433, 0x7f.1
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)")


class Refused(ValueError):
    """Nothing is sent there; the message says why, and tells nothing of the network that the platform is in."""


def check_url(url: str, *, allow_loopback: bool) -> str:
    """Return the host of an endpoint's URL; Refused if it can't be one. Whither a name leads is seen when it is used.

    allow_loopback: this machine may be the endpoint, without TLS.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise Refused("it is not a URL") from None
    if not host:
        raise Refused("it names no host")
    if parts.scheme != "https" and not allow_loopback:
        raise Refused("it must begin with https://")
    if parts.username is not None or parts.password is not None:
        raise Refused("it must not hold a user name or a password")
    if "#" in url:
        raise Refused("it must not have a fragment")
    check_host(host, allow_loopback=allow_loopback)
    return host


def check_host(host: str, *, allow_loopback: bool) -> None:
    """Refused for an address that isn't public, and for whatever isn't surely a name or an address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise Refused("its host is neither a name nor an address as it is usually written") from None
        return
    check_address(address, allow_loopback=allow_loopback)


def check_address(address: Address, *, allow_loopback: bool) -> None:
    """Refused unless an address is public, or of this machine where that is allowed."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if not _is_public(mapped or address) and not (allow_loopback and (mapped or address).is_loopback):
        raise Refused("its host has no public address")


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _GLOBAL or any(address in network for network in _CARRIERS)
    ):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
