"""Names of targets and options."""

from __future__ import annotations

import json

import pytest

from enforcer.client.channel import list_options, name_target


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        (("enforcers:50051",), "enforcers:50051"),
        (("dns:///enforcers.example:50051",), "dns:///enforcers.example:50051"),
        (("10.0.0.1:50051", "10.0.0.2:50052"), "ipv4:10.0.0.1:50051,10.0.0.2:50052"),
        (("[::1]:50051", "[2001:db8::1]:50051"), "ipv6:[::1]:50051,[2001:db8::1]:50051"),
    ],
)
def test_addresses_are_one_target(addresses: tuple[str, ...], target: str) -> None:
    assert name_target(addresses) == target


@pytest.mark.parametrize(
    ("addresses", "told"),
    [
        ((), "none"),
        (("a:1", "b:1"), "a:1, b:1"),
        (("10.0.0.1:1", "[::1]:1"), r"10.0.0.1:1, \[::1\]:1"),
        (("10.0.0.1:1", "10.0.0.2"), "10.0.0.1:1, 10.0.0.2"),
    ],
)
def test_a_list_that_grpc_does_not_take_is_refused(addresses: tuple[str, ...], told: str) -> None:
    message = f"addresses: {told}; allowed are one name, which may resolve to many enforcers, or several ip:port"
    with pytest.raises(ValueError, match=message):
        name_target(addresses)


def test_calls_go_round_the_enforcers_that_serve_but_a_proxy_does_that_itself() -> None:
    config = json.loads(str(dict(list_options(["a:1"], server_name="", is_proxied=False))["grpc.service_config"]))
    assert config == {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
    assert "grpc.service_config" not in dict(list_options(["a:1"], server_name="", is_proxied=True))


@pytest.mark.parametrize(
    ("addresses", "server_name", "authority"),
    [
        (("10.0.0.1:1", "10.0.0.2:1"), "", "10.0.0.1:1"),
        (("10.0.0.1:1", "10.0.0.2:1"), "enforcers.example", "enforcers.example"),
        (("a:1",), "", None),
        (("a:1",), "enforcers.example", "enforcers.example"),
    ],
)
def test_calls_are_addressed_to_one_name(addresses: tuple[str, ...], server_name: str, authority: str | None) -> None:
    options = dict(list_options(addresses, server_name=server_name, is_proxied=False))
    assert options.get("grpc.default_authority") == authority


def test_no_retry_is_asked_for_beyond_grpcs_own_transparent_ones() -> None:
    for is_proxied in (False, True):
        assert "retry" not in str(list_options(["a:1"], server_name="", is_proxied=is_proxied)).lower()
