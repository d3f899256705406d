from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from devstack import redis_server
from devstack.errors import DevstackError


@pytest.fixture(autouse=True)
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Major version by path of the servers that there are."""
    known: dict[str, int] = {}
    monkeypatch.delenv("REDIS_SERVER", raising=False)
    monkeypatch.setattr(redis_server, "_major_version", known.get)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if f"/bin/{name}" in known else None)
    return known


def test_a_named_server_comes_first(versions: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    versions |= {"/opt/redis": 8, "/bin/redis-server": 7}
    monkeypatch.setenv("REDIS_SERVER", "/opt/redis")
    assert redis_server.find_server() == Path("/opt/redis")


def test_a_named_server_that_is_too_old_is_an_error_not_a_fallback(
    versions: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions |= {"/opt/redis": 6, "/bin/redis-server": 7}
    monkeypatch.setenv("REDIS_SERVER", "/opt/redis")
    with pytest.raises(DevstackError, match="REDIS_SERVER is /opt/redis"):
        redis_server.find_server()


def test_a_server_on_path_comes_before_the_wheel(versions: dict[str, int]) -> None:
    versions["/bin/redis-server"] = 7
    assert redis_server.find_server() == Path("/bin/redis-server")


def test_an_old_server_on_path_is_passed_over(versions: dict[str, int]) -> None:
    versions["/bin/redis-server"] = 6
    assert redis_server.find_server().name == "valkey-server"


def test_without_any_server_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DevstackError, match="set REDIS_SERVER"):
        redis_server.find_server()


def test_a_replica_waits_for_the_server_that_it_follows(versions: dict[str, int]) -> None:
    versions["/bin/redis-server"] = 7
    service = redis_server.service("redis-replica", 2, Path("data"), replica_of=1)
    assert service.after == ("redis",)
    assert list(service.argv[-3:]) == ["--replicaof", "127.0.0.1", "1"]


def test_servers_listen_on_loopback_alone(versions: dict[str, int]) -> None:
    versions["/bin/redis-server"] = 7
    argv = list(redis_server.service("redis", 1, Path("data")).argv)
    assert argv[argv.index("--bind") + 1] == "127.0.0.1"


def test_a_majority_of_the_sentinels_decides(versions: dict[str, int], tmp_path: Path) -> None:
    versions["/bin/redis-server"] = 7
    service = redis_server.sentinel("redis-sentinel-1", 3, tmp_path, master_port=1, sentinels=3)
    assert service.after == ("redis-replica",)
    assert list(service.argv) == ["/bin/redis-server", f"{tmp_path}/sentinel.conf", "--sentinel"]
    assert "sentinel monitor ratchet 127.0.0.1 1 2" in (tmp_path / "sentinel.conf").read_text().splitlines()
