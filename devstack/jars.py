"""Kafka's jars: the committed list of them, and a verified copy in a cache outside the checkout."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from devstack.errors import DevstackError

LOCK_FILE = Path(__file__).with_name("kafka.lock.toml")
DOWNLOADERS = 8
ATTEMPTS = 3


class Jar(BaseModel):
    """One line of the lock: a jar by its Maven coordinates, its size and its SHA-256 in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: str
    name: str
    version: str
    bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Name of the jar's file, as Maven repositories have it."""
        return f"{self.name}-{self.version}.jar"


@dataclass(frozen=True, slots=True)
class Progress:
    """What a stack is doing at the moment, for people.

    Attributes:
        text: The step, in a few words.
        done_bytes: Bytes of the step that are done; 0 where a step has none.
        total_bytes: Bytes of the step; 0 where it has none.
    """

    text: str
    done_bytes: int = 0
    total_bytes: int = 0


Report = Callable[[Progress], None]
"""Called with each step, possibly from another thread; must not block or raise."""


def cache_folder() -> Path:
    """Return where downloads are kept: ``$RATCHET_CACHE``, else ``$XDG_CACHE_HOME/ratchet``, else ``~/.cache/ratchet``."""
    if named := os.environ.get("RATCHET_CACHE"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ratchet"


def read_lock(text: str) -> tuple[Jar, ...]:
    """Parse the text of a lock file.

    Raises:
        ValueError: It is not TOML, or a jar lacks a field or has one too many.
    """
    return TypeAdapter(tuple[Jar, ...]).validate_python(tomllib.loads(text)["jars"])


@contextlib.asynccontextmanager
async def locked(path: Path, *, on_wait: Callable[[], None]) -> AsyncIterator[None]:
    """Hold a file lock that ends with the process, so that two starters do not do the same work.

    Args:
        path: Lock file; made when missing, never removed.
        on_wait: Called once if somebody else holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        is_told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not is_told:
                    is_told = True
                    on_wait()
                await asyncio.sleep(0.1)
        yield


async def fetch(jars: Sequence[Jar], folder: Path, report: Report) -> tuple[Path, ...]:
    """Make sure that ``folder`` holds every jar with the right content, downloading those that it lacks.

    Files appear in the folder whole and verified or not at all. Call it under ``locked``.

    Returns:
        The files' paths in the order of ``jars``.

    Raises:
        DevstackError: A download failed three times, a file has a wrong hash, or the disk is full.
    """
    stop = threading.Event()
    try:
        return await asyncio.to_thread(_fetch, jars, folder, report, stop)
    finally:
        stop.set()  # a cancelled caller does not wait for the rest


def _fetch(jars: Sequence[Jar], folder: Path, report: Report, stop: threading.Event) -> tuple[Path, ...]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [jar for jar in jars if not _holds(folder / jar.file_name, jar)]
        if missing:
            with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as staging:
                _download(missing, Path(staging), folder, report, stop)
    except OSError as error:
        raise _disk_error(error, folder, sum(jar.bytes for jar in jars)) from error
    return tuple(folder / jar.file_name for jar in jars)


def _download(missing: Sequence[Jar], staging: Path, folder: Path, report: Report, stop: threading.Event) -> None:
    total_bytes, done_bytes = sum(jar.bytes for jar in missing), 0

    def tell(done: int) -> None:
        sizes = f"{done_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB"
        report(Progress(f"downloading Kafka's jars: {done} of {len(missing)}, {sizes}", done_bytes, total_bytes))

    def fetch_one(jar: Jar) -> Jar:
        path = _resolve(jar, staging, stop)
        path.replace(folder / jar.file_name)
        return jar

    tell(0)
    with ThreadPoolExecutor(DOWNLOADERS, thread_name_prefix="jar") as pool:
        try:
            for count, future in enumerate(as_completed([pool.submit(fetch_one, jar) for jar in missing]), 1):
                done_bytes += future.result().bytes
                tell(count)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _resolve(jar: Jar, staging: Path, stop: threading.Event) -> Path:
    """Download one jar with jgo into a folder of its own, and verify it."""
    import requests
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    failure: Exception | None = None
    for attempt in range(ATTEMPTS):
        if stop.wait(attempt):  # 0, 1, 2 s
            break
        context = MavenContext(
            repo_cache=staging / f"{jar.name}-{attempt}", remote_repos={"central": MAVEN_CENTRAL_URL}, timeout=30
        )
        try:
            path = Path(context.project(jar.group, jar.name).at_version(jar.version).artifact().resolve())
        except (requests.RequestException, RuntimeError) as error:  # jgo says RuntimeError for all that is not 200
            failure = error
            continue
        found = _sha256(path)
        if found != jar.sha256:
            raise DevstackError(
                f"{jar.file_name} was downloaded with SHA-256 {found}, but {LOCK_FILE.name} says {jar.sha256}",
                "Something between here and the repository changes files, or the lock is wrong; nothing was kept.",
            )
        return path
    raise DevstackError(
        f"{jar.file_name} could not be downloaded: {failure}",
        "Is the Maven repository reachable from here (proxy, certificates)? What was fetched is kept; try again.",
    )


def _holds(path: Path, jar: Jar) -> bool:
    return path.exists() and path.stat().st_size == jar.bytes and _sha256(path) == jar.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _disk_error(error: OSError, folder: Path, needed_bytes: int) -> DevstackError:
    remedy = "Set RATCHET_CACHE to a folder that can be written."
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(folder.parent).free
        remedy = f"{needed_bytes / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free. {remedy}"
    return DevstackError(f"Kafka's jars cannot be kept in {folder}: {error.strerror or error}", remedy)
