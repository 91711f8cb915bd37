"""Which addresses on the network are somebody else's, and so may be reached on a stranger's behalf.

The lists are our own, because the properties of ``ipaddress`` (``is_global`` and its kin) differ between patch releases
and let NAT64, 6to4, Azure's host and others through. Asking here proves nothing about a name: who dials must ask again
about the very address that is dialled.
"""

import ipaddress
from typing import Final

PORTS: Final = frozenset({443, 8443})

_NO_V4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' NAT; Alibaba's metadata
        "127.0.0.0/8",  # this host
        "168.63.129.16/32",  # Azure's host, a public address
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF; Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relay
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Today's global unicast. All else is denied: loopback, IPv4-compatible, NAT64, SRv6, local, link-local, multicast.
_YES_V6: Final = ipaddress.IPv6Network("2000::/3")
_NO_V6: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 embeds IPv4
        "3fff::/20",  # documentation
    )
)


def is_public(address: str) -> bool:
    """Tell whether a literal address, with or without a zone, is public unicast; ValueError if it is no address."""
    ip = _parse(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _NO_V4)
    return ip in _YES_V6 and not any(ip in network for network in _NO_V6)


def is_loopback(address: str) -> bool:
    """Tell whether a literal address is this host's loopback; ValueError if it is no address."""
    return _parse(address).is_loopback


def is_literal(host: str) -> bool:
    """Tell whether a host is written as an address and not as a name."""
    try:
        _parse(host)
    except ValueError:
        return False
    return True


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(address.partition("%")[0])
    # An IPv4 address in IPv6's clothes is dialled as IPv4.
    return getattr(ip, "ipv4_mapped", None) or ip
