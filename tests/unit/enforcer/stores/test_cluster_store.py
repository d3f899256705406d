"""Which store a URL asks for."""

from __future__ import annotations

from enforcer.stores.cluster_store import ClusterStore, open_store
from enforcer.stores.store import RedisStore


def test_url_says_which_store() -> None:
    assert isinstance(open_store("redis+cluster://a:1,b:2", 0.01), ClusterStore)
    assert isinstance(open_store("redis://a:1", 0.01), RedisStore)
