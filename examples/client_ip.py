"""Whose address a request comes from, written so that one client has one spelling. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

LOOPBACK_NETWORKS: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


def find_client_ip(
    peer: str,
    forwarded_for: Sequence[str],
    *,
    trusted_proxies: Sequence[IPv4Network | IPv6Network] = LOOPBACK_NETWORKS,
) -> str:
    """Find the address that a request is limited by, canonical.

    Walks X-Forwarded-For from its end, the part that our own proxies wrote, and stops at the first address that is not a
    trusted proxy. What stands before it was written by the client and is never believed.

    Args:
        peer: Address of the connection's other end.
        forwarded_for: Values of the X-Forwarded-For fields, in their order; each a comma-separated list.
        trusted_proxies: Networks whose word about the address before them is taken.

    Returns:
        As ``canonicalize_ip``; ``unknown`` when the peer is no IP address (a Unix socket).
    """
    address = _parse(peer)
    if address is None:
        return "unknown"
    claimed = [part.strip() for value in forwarded_for for part in value.split(",")]
    while claimed and _is_within(address, trusted_proxies):
        before = _parse(_strip_port(claimed.pop()))
        if before is None:
            break  # a trusted proxy passed on something that is no address: the proxy is the last one known
        address = before
    return _spell(address)


def canonicalize_ip(text: str) -> str | None:
    """Spell an address in the one way that Ratchet limits it by; None when ``text`` is no address.

    IPv4 dotted; IPv4 in IPv6 as the IPv4 that it is; other IPv6 as its /64 network, since one customer owns all of it.
    """
    address = _parse(text)
    return None if address is None else _spell(address)


def _spell(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address) >> 64 << 64, 64)))


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


def _is_within(address: IPv4Address | IPv6Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)
