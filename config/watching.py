"""Notice that a file has become another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

EVERY_S = 0.25

_Signature = tuple[int, int, int, int] | None


async def watch_files(files: Sequence[Path], changed: Callable[[], None], *, every_s: float = EVERY_S) -> None:
    """Call ``changed`` whenever one of the files was written, replaced or removed; runs until it is cancelled.

    Links are followed, so a mounted config map or secret, whose links are swapped, is seen as new content. Files are
    looked at, not subscribed to: that works on every file system, also on a network's.

    Args:
        files: What to look at; they need not exist.
        changed: Reads them; runs on the event loop. Several changes within ``every_s`` may be one call.
        every_s: How often to look.
    """
    seen = [_sign(file) for file in files]
    while True:
        await asyncio.sleep(every_s)
        now = [_sign(file) for file in files]
        if now != seen:
            seen = now
            changed()


def _sign(file: Path) -> _Signature:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
