"""Make ``.venv`` hold exactly what ``requirements.lock`` names, and the project itself, editable.

Runs on a bare Python: it imports nothing but the standard library, and is what ``make setup`` calls. A second call with an
unchanged lock does nothing, so every other make target may depend on it.

The packages are installed by uv (itself pinned by hash in the same lock), which is about fifteen times faster than pip; where
uv cannot reach the package index (an index that only pip's own configuration names), pip does the same work.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "ratchet-setup.sha256"
LOWEST = (3, 11)


def main() -> int:
    """Create or refresh ``.venv``; print one line per step and its seconds.

    Returns:
        0 when the environment is ready, 1 when a step failed (its output stands above the message).
    """
    if sys.version_info < LOWEST:
        found = ".".join(map(str, sys.version_info[:3]))
        return _fail(f"Python 3.11 or newer is needed, this is {found} ({sys.executable}). Try: make PYTHON=python3.12")
    wanted = hashlib.sha256(LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    python = VENV / "bin" / "python"
    if python.exists() and STAMP.exists() and STAMP.read_text() == wanted:
        return 0
    started = time.monotonic()
    if not python.exists():
        _say("creating .venv")
        venv.EnvBuilder(with_pip=True, clear=VENV.exists()).create(VENV)
    if not (_install_with_uv(python) or _install_with_pip(python)):
        return _fail("the packages of requirements.lock could not be installed; is a package index reachable?")
    _say("installing ratchet, editable")
    project = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    if not _run([str(python), "-m", "pip", "--disable-pip-version-check", *project]):
        return _fail("the project itself could not be installed")
    STAMP.write_text(wanted)
    _say(f"ready after {time.monotonic() - started:.1f} s")
    return 0


def _install_with_uv(python: Path) -> bool:
    pin = re.search(r"^uv==.*?(?=^\S|\Z)", LOCK.read_text(), flags=re.MULTILINE | re.DOTALL)
    if pin is None:
        return False
    only_uv = VENV / "uv-only.lock"
    only_uv.write_text(pin.group().split("# via")[0].rstrip(" \n#") + "\n")
    _say("installing the installer (uv)")
    if not _run(
        [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", "--require-hashes", "-r", str(only_uv)]
    ):
        return False
    _say("installing the packages of requirements.lock (about 250 MB the first time)")
    uv = VENV / "bin" / "uv"
    return _run([str(uv), "pip", "install", "--require-hashes", "--python", str(python), "--requirement", str(LOCK)])


def _install_with_pip(python: Path) -> bool:
    _say("installing the packages of requirements.lock with pip instead")
    return _run([str(python), "-m", "pip", "--disable-pip-version-check", "install", "--require-hashes", "-r", str(LOCK)])


def _run(command: list[str]) -> bool:
    environment = {**os.environ, "VIRTUAL_ENV": str(VENV)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0  # noqa: S603 fixed commands


def _say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def _fail(text: str) -> int:
    print(f"setup: error: {text}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
