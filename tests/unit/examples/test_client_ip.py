import pytest

from examples.client_ip import canonicalize_ip, find_client_ip


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:DB8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("example.org", None),
        ("", None),
        ("203.0.113.300", None),
    ],
)
def test_one_client_has_one_spelling(text: str, spelled: str | None) -> None:
    assert canonicalize_ip(text) == spelled


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
    ],
)
def test_client_is_the_last_address_that_no_proxy_of_ours_has(peer: str, forwarded_for: list[str], found: str) -> None:
    assert find_client_ip(peer, forwarded_for) == found
