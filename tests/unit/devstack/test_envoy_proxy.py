from __future__ import annotations

from typing import Any

import pytest
import yaml

from devstack import envoy_proxy
from devstack.envoy_proxy import ADMIN, ENFORCERS, LISTENER, move
from devstack.errors import DevstackError

CONFIG = yaml.safe_load(envoy_proxy.CONFIG.read_text())
PLACES = {
    LISTENER: ("127.0.0.1", 1),
    ADMIN: ("127.0.0.1", 2),
    ENFORCERS[0]: ("127.0.0.1", 3),
    ENFORCERS[1]: ("127.0.0.1", 4),
}


def addresses(config: Any) -> list[tuple[str, int]]:
    if isinstance(config, list):
        return [found for one in config for found in addresses(one)]
    if not isinstance(config, dict):
        return []
    own = config.get("socket_address")
    below = [found for value in config.values() for found in addresses(value)]
    return below if own is None else [(own["address"], own["port_value"])]


def test_every_address_of_the_shared_file_is_moved_to_loopback() -> None:
    assert sorted(addresses(move(CONFIG, PLACES))) == sorted(PLACES.values())


def test_nothing_but_addresses_is_changed() -> None:
    back = {there: here for here, there in PLACES.items()}
    assert move(move(CONFIG, PLACES), back) == CONFIG


def test_an_address_that_devstack_does_not_know_is_an_error() -> None:
    with pytest.raises(DevstackError, match="enforcer-3:50053"):
        move({"socket_address": {"address": "enforcer-3", "port_value": 50053}}, PLACES)


def test_the_admin_page_is_on_loopback_in_the_shared_file_too() -> None:
    assert CONFIG["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def test_nothing_that_may_have_reached_an_enforcer_is_sent_again() -> None:
    connection_manager = CONFIG["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = connection_manager["route_config"]["virtual_hosts"]
    assert set(host["retry_policy"]["retry_on"].split(",")) == {"connect-failure", "refused-stream", "reset-before-request"}
    assert all("retry_policy" not in route["route"] for route in host["routes"])
