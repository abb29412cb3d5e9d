"""Webhooks go to public addresses, whatever an address is disguised as."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.integration.domain.addresses import Refused, check_address, check_host, check_url

PRIVATE = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/29",
        "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "::1/128", "64:ff9b::/96", "100::/64", "2001:db8::/32", "2001::/32", "2002::/16", "fc00::/7",
        "fe80::/10", "fec0::/10", "ff00::/8",
    )
]  # fmt: skip


@st.composite
def within(draw: st.DrawFn) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    network = draw(st.sampled_from(PRIVATE))
    return network[draw(st.integers(0, network.num_addresses - 1))]


@given(within())
def test_nothing_is_sent_to_a_private_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    with pytest.raises(Refused):
        check_address(address, allow_loopback=False)
    host = f"[{address}]" if address.version == 6 else str(address)
    with pytest.raises(Refused):
        check_url(f"https://{host}:8443/hook", allow_loopback=False)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_one_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    def refused(tried: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        try:
            check_address(tried, allow_loopback=False)
        except Refused:
            return True
        return False

    assert refused(ipaddress.IPv6Address(f"::ffff:{address}")) == refused(address)
    assert refused(ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80)))
    assert refused(ipaddress.IPv6Address((0x0064FF9B << 96) | int(address)))
    # Nothing that this Python calls private may pass.
    assert refused(address) or not (address.is_private or address.is_loopback or address.is_link_local)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_allowed_where_that_is_set_and_nothing_else_is(address: str) -> None:
    check_address(ipaddress.ip_address(address), allow_loopback=True)
    with pytest.raises(Refused):
        check_address(ipaddress.ip_address(address), allow_loopback=False)
    for other in ("10.0.0.1", "169.254.169.254", "0.0.0.0", "::", "fe80::1", "fd00:ec2::254"):
        with pytest.raises(Refused):
            check_address(ipaddress.ip_address(other), allow_loopback=True)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "127.1",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "0x7f000001",
        "1",
        "10.0.0.1..",
        "::1%lo",
        "1.2.3.4.5",
    ],
)
def test_a_host_that_only_some_read_as_an_address_is_none(host: str) -> None:
    with pytest.raises(Refused):
        check_host(host, allow_loopback=False)


@pytest.mark.parametrize("host", ["hooks.acme.example", "8.8.8.8", "2606:4700::1111", "x1.example", "1password.com"])
def test_names_and_public_addresses_are_hosts(host: str) -> None:
    check_host(host, allow_loopback=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.acme.example/",
        "ftp://hooks.acme.example/",
        "https://user:password@hooks.acme.example/",
        "https://user@hooks.acme.example/",
        "https://hooks.acme.example/#x",
        "https:///x",
        "https://[::1/x",
        "https://hooks.acme.example:99999/",
        "hooks.acme.example",
    ],
)
def test_a_url_is_https_with_a_host_and_no_more_than_that(url: str) -> None:
    with pytest.raises(Refused):
        check_url(url, allow_loopback=False)


def test_a_url_s_host_is_what_is_told_of_it() -> None:
    assert check_url("https://Hooks.Acme.example:8443/x?token=secret", allow_loopback=False) == "hooks.acme.example"
    assert check_url("http://127.0.0.1:9/x", allow_loopback=True) == "127.0.0.1"
