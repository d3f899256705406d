"""Whose address a request comes from."""

from __future__ import annotations

import pytest

from enforcer.client.client_ip import LOOPBACK_NETWORKS, find_client_ip, parse_networks


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "found"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),  # a stranger's word is not taken
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),  # the client wrote the first one
        ("127.0.0.1", ["1.1.1.1", "198.51.100.1, 127.0.0.1"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("127.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::/64"),
        ("127.0.0.1", ["2001:db8::1"], "2001:db8::/64"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("", [], "unknown"),
        ("::ffff:203.0.113.7", [], "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
    ],
)
def test_client_is_the_last_address_that_no_proxy_of_ours_has(peer: str, forwarded_for: list[str], found: str) -> None:
    assert find_client_ip(peer, forwarded_for, trusted_proxies=LOOPBACK_NETWORKS) == found


def test_nobody_is_believed_unless_told_so() -> None:
    assert find_client_ip("127.0.0.1", ["198.51.100.1"]) == "127.0.0.1"
    trusted = parse_networks(["10.0.0.0/8", "2001:db8::7"])
    assert find_client_ip("10.1.2.3", ["198.51.100.1, 2001:db8::7"], trusted_proxies=trusted) == "198.51.100.1"


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'10\.0\.0\.0/33' does not appear to be an IPv4 or IPv6 network"):
        parse_networks(["10.0.0.0/33"])
