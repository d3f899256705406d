"""Downloads with the real client from a repository on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from devstack import jars
from devstack.errors import DevstackError
from devstack.jars import Jar, Progress, fetch, locked

CONTENT = b"a jar"


class Repository(ThreadingHTTPServer):
    """Serves every jar with the same content, and counts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.content = CONTENT
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    server: Repository

    def do_GET(self) -> None:
        is_jar = self.path.endswith(".jar")
        if is_jar:
            self.server.asked.append(self.path)
        body = self.server.content if is_jar else hashlib.sha1(self.server.content).hexdigest().encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class's name
        pass


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    server = Repository()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("jgo.constants.MAVEN_CENTRAL_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(jars, "ATTEMPTS", 1)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def jar(name: str) -> Jar:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return Jar(group="org.example", name=name, version="1", bytes=len(CONTENT), sha256=sha256)


def ignore(_: Progress) -> None:
    pass


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


async def test_only_what_is_missing_or_changed_is_downloaded(repository: Repository, tmp_path: Path) -> None:
    wanted, told = [jar("a"), jar("b")], list[Progress]()
    paths = await fetch(wanted, tmp_path / "jars", told.append)
    assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT]
    assert (told[-1].done_bytes, told[-1].total_bytes) == (10, 10)
    assert sorted(repository.asked) == ["/org/example/a/1/a-1.jar", "/org/example/b/1/b-1.jar"]

    repository.asked.clear()
    paths[0].write_bytes(b"spoil")
    await fetch(wanted, tmp_path / "jars", ignore)
    assert repository.asked == ["/org/example/a/1/a-1.jar"]
    assert paths[0].read_bytes() == CONTENT
    assert files_in(tmp_path) == {"jars", "a-1.jar", "b-1.jar"}


async def test_a_jar_with_a_wrong_hash_is_named_and_not_kept(repository: Repository, tmp_path: Path) -> None:
    repository.content = b"a virus"
    with pytest.raises(DevstackError, match=r"a-1\.jar was downloaded with SHA-256"):
        await fetch([jar("a")], tmp_path / "jars", ignore)
    assert files_in(tmp_path) == {"jars"}


async def test_a_failed_download_says_what_to_look_at(repository: Repository, tmp_path: Path) -> None:
    repository.status = 404
    with pytest.raises(DevstackError, match=r"a-1\.jar could not be downloaded(.|\n)*proxy"):
        await fetch([jar("a")], tmp_path / "jars", ignore)


async def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DevstackError, match="RATCHET_CACHE"):
        await fetch([jar("a")], tmp_path / "file" / "jars", ignore)


async def test_two_starters_do_the_work_once(repository: Repository, tmp_path: Path) -> None:
    waits: list[str] = []

    async def start(name: str) -> None:
        async with locked(tmp_path / "lock", on_wait=lambda: waits.append(name)):
            await fetch([jar("a")], tmp_path / "jars", ignore)

    await asyncio.gather(start("first"), start("second"))
    assert waits == ["second"]
    assert len(repository.asked) == 1
