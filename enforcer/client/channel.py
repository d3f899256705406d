"""How clients reach enforcers: names, balancing, health, and connections that are given up when nobody answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TypeAlias

Options: TypeAlias = tuple[tuple[str, int | str], ...]

SILENT_AFTER_MS = 2000
"""A connection on which nothing was heard for so long is asked for a sign of life while calls are open."""
GIVEN_UP_AFTER_MS = 1000
"""Without such a sign for so long it is closed: an enforcer that was stopped or cut off would else swallow its share of calls
until the kernel gives up, a quarter of an hour later."""

_CONNECTIONS: Options = (
    # With equal options gRPC would share one connection between all clients of a process.
    ("grpc.use_local_subchannel_pool", 1),
    # Else the first calls after an enforcer comes back are held back by up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", SILENT_AFTER_MS),
    ("grpc.keepalive_timeout_ms", GIVEN_UP_AFTER_MS),
    ("grpc.http2.ping_timeout_ms", GIVEN_UP_AFTER_MS),  # gRPC heeds this one, which is a minute otherwise
    ("grpc.http2.max_pings_without_data", 0),
)
_BALANCED = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
"""gRFC A17: an enforcer that says NOT_SERVING, since it drains, gets no more calls."""


def name_target(addresses: Sequence[str]) -> str:
    """Write addresses as one gRPC target.

    Args:
        addresses: One ``host:port`` or any name that gRPC knows (``dns:///enforcers:50051`` stands for all that it resolves to,
            ``unix:/path``); or several of ``ip:port``.

    Raises:
        ValueError: None, or several that are not all IP addresses of one version: gRPC takes a list of these alone.
    """
    if len(addresses) == 1:
        return addresses[0]
    versions = {_find_version(address) for address in addresses}
    if len(versions) != 1 or 0 in versions:
        raise ValueError(
            f"addresses: {', '.join(addresses) or 'none'}; allowed are one name, which may resolve to many enforcers, or "
            "several ip:port, all IPv4 or all IPv6"
        )
    return f"ipv{versions.pop()}:{','.join(addresses)}"


def list_options(addresses: Sequence[str], *, server_name: str, is_proxied: bool) -> Options:
    """List the channel's options. Retries are gRPC's transparent ones alone: of calls that no enforcer has begun (gRFC A6).

    Args:
        addresses: As for :func:`name_target`.
        server_name: What calls are addressed to, and what a certificate has to name; empty for the address.
        is_proxied: A proxy balances and looks after health: one connection suffices, and the health of one enforcer behind the
            proxy says nothing of the proxy.
    """
    options = _CONNECTIONS
    if server_name or len(addresses) > 1:
        # Of a list gRPC would make an authority with commas, which is none (RFC 3986 section 3.2), and servers refuse it.
        options = (*options, ("grpc.default_authority", server_name or addresses[0]))
    if not is_proxied:
        options = (*options, ("grpc.service_config", json.dumps(_BALANCED)))
    return options


def _find_version(address: str) -> int:
    host, _, port = address.rpartition(":")
    try:
        return ip_address(host.strip("[]")).version if port.isdigit() else 0
    except ValueError:
        return 0
