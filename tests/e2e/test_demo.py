"""The demo as a newcomer starts it: what Ratchet promises, on real parts."""

import asyncio
import sys

import pytest

from examples.system import ROOT


@pytest.mark.timeout(300)
async def test_demo_meets_every_promise() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples.demo",
        cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text
    assert "NOT MET" not in text
    assert "audit of decisions" in text
