"""Whose address a request comes from, written so that one client has one spelling. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from lua.keys import canonicalize_ip

Network: TypeAlias = IPv4Network | IPv6Network

LOOPBACK_NETWORKS: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
UNKNOWN = "unknown"
"""Instead of an address where a connection has none, as over a Unix socket."""


def find_client_ip(
    peer: str,
    forwarded_for: Sequence[str],
    *,
    trusted_proxies: Sequence[Network] = (),
) -> str:
    """Find the address that a request is limited by, canonical.

    Walks X-Forwarded-For from its end, the part that our own proxies wrote, and stops at the first address that is not a
    trusted proxy. What stands before it was written by the client and is never believed.

    Args:
        peer: Address of the connection's other end.
        forwarded_for: Values of the X-Forwarded-For fields, in their order; each a comma-separated list.
        trusted_proxies: Networks whose word about the address before them is taken; none by default, for whoever is believed
            wrongly lets every client choose its own address.

    Returns:
        As ``lua.keys.canonicalize_ip``; ``UNKNOWN`` when the peer is no IP address.
    """
    address = _parse(peer)
    if address is None:
        return UNKNOWN
    claimed = [part.strip() for value in forwarded_for for part in value.split(",")]
    while claimed and _is_within(address, trusted_proxies):
        before = _parse(_strip_port(claimed.pop()))
        if before is None:
            break  # a trusted proxy passed on something that is no address: the proxy is the last one known
        address = before
    return canonicalize_ip(str(address))


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _strip_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host, colon, port = text.partition(":")
    return host if colon and port.isdigit() else text


def _is_within(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Read networks such as ``10.0.0.0/8``; a single address is a network of itself.

    Raises:
        ValueError: One of them is no network. Start nothing that would trust it.
    """
    return tuple(ip_network(text) for text in texts)
