from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from devstack.jars import LOCK_FILE, cache_folder, read_lock


def test_the_committed_lock_names_every_jar_once_with_a_hash() -> None:
    jars = read_lock(LOCK_FILE.read_text())
    assert len({jar.file_name for jar in jars}) == len(jars)
    assert all(len(jar.sha256) == 64 and jar.bytes > 0 for jar in jars)
    assert {"kafka_2.13-4.4.0.jar", "log4j-slf4j-impl-2.25.5.jar"} <= {jar.file_name for jar in jars}


def test_the_committed_lock_names_no_host() -> None:
    assert "//" not in LOCK_FILE.read_text()


def test_a_jar_without_a_hash_is_refused() -> None:
    with pytest.raises(ValidationError, match="sha256"):
        read_lock('[[jars]]\ngroup = "g"\nname = "n"\nversion = "1"\nbytes = 1\n')


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.delenv("RATCHET_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/user/.cache/ratchet")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder() == Path("/var/cache/ratchet")
    monkeypatch.setenv("RATCHET_CACHE", "/srv/ratchet")
    assert cache_folder() == Path("/srv/ratchet")
