"""A file that changes is noticed, however it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from config.watching import watch_files


class Seen:
    """How often a change was told."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As Kubernetes mounts a config map: the file is a link through a link that is swapped."""
    for name, text in (("first", "old"), ("second", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.yaml").write_text(text)
    (tmp_path / "data").symlink_to("first")
    (tmp_path / "file.yaml").symlink_to("data/file.yaml")
    return tmp_path


@pytest.fixture
async def seen(folder: Path) -> AsyncIterator[Seen]:
    seen = Seen()
    watching = asyncio.create_task(watch_files([folder / "file.yaml", folder / "other.yaml"], seen, every_s=0.001))
    await asyncio.sleep(0)  # it has looked once
    yield seen
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def write(folder: Path) -> None:
    (folder / "first" / "file.yaml").write_text("longer")


def swap_links(folder: Path) -> None:
    (folder / "next").symlink_to("second")
    (folder / "next").rename(folder / "data")


def replace(folder: Path) -> None:
    (folder / "new.yaml").write_text("old")
    (folder / "new.yaml").rename(folder / "first" / "file.yaml")


def remove(folder: Path) -> None:
    (folder / "first" / "file.yaml").unlink()


def add_other(folder: Path) -> None:
    (folder / "other.yaml").write_text("")


@pytest.mark.parametrize("change", [write, swap_links, replace, remove, add_other])
async def test_change_is_told(folder: Path, seen: Seen, change: Callable[[Path], None]) -> None:
    change(folder)
    async with asyncio.timeout(20):
        while not seen.count:  # noqa: ASYNC110 what is waited for tells nobody
            await asyncio.sleep(0.001)


async def test_file_that_stays_is_told_of_never(folder: Path, seen: Seen) -> None:
    (folder / "unrelated").write_text("")
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert seen.count == 0
