from __future__ import annotations

from pathlib import Path

from bench.throttle import DOCUMENT, PICTURE, write_picture, write_tables


def test_document_holds_what_the_command_writes() -> None:
    assert write_tables() in Path(DOCUMENT).read_text(encoding="utf-8"), "run python -m bench.throttle"
    assert write_picture() == Path(PICTURE).read_text(encoding="utf-8"), "run python -m bench.throttle"
