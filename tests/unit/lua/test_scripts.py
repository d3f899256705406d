"""The registry says what the scripts' own headers say."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files

import pytest

from lua import scripts
from lua.scripts import Script

SCRIPTS = [value for value in vars(scripts).values() if isinstance(value, Script)]
_PARAMETER = re.compile(r"^-- (KEYS|ARGV)\[(\d+|\.\.\.)\]\s+(\w+)", re.MULTILINE)


def read_header(script: Script, kind: str) -> tuple[str, ...]:
    """Names of the numbered parameters in order; the open end as ``...``, once."""
    header = script.source[: script.source.index("\nlocal")]
    names: list[str] = []
    for found, number, name in _PARAMETER.findall(header):
        if found != kind:
            continue
        if number == "...":
            if names[-1:] != ["..."]:
                names.append("...")
        else:
            assert int(number) == len(names) + 1, f"{script.name}: {kind}[{number}] stands out of order"
            names.append(name)
    return tuple(names)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_header_and_registry_name_the_same_parameters(script: Script) -> None:
    assert read_header(script, "KEYS") == script.keys
    assert read_header(script, "ARGV") == script.argv


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_header_says_purpose_atomicity_returns_and_key_types(script: Script) -> None:
    header = script.source[: script.source.index("\nlocal")]
    assert header.startswith(f"-- {script.name}.lua: ")
    for part in ("-- Atomic", "-- Returns", "-- Key types"):
        assert part in header


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_sha_is_that_of_the_file_with_what_it_includes(script: Script) -> None:
    file = files("lua").joinpath(f"{script.name}.lua").read_text()
    assert script.sha == hashlib.sha1(script.source.encode()).hexdigest()
    own = [line for line in file.splitlines() if not line.startswith("-- @include ")]
    lines = script.source.splitlines()
    for name in re.findall(r"^-- @include (\w+)$", file, re.MULTILINE):
        included = files("lua").joinpath("includes", f"{name}.lua").read_text().splitlines()
        place = lines.index(included[0])
        assert lines[place : place + len(included)] == included
        del lines[place : place + len(included)]
    assert lines == own


def test_every_script_is_registered() -> None:
    found = {entry.name.removesuffix(".lua") for entry in files("lua").iterdir() if entry.name.endswith(".lua")}
    assert {script.name for script in SCRIPTS} == found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_numbers_are_never_joined_as_text(script: Script) -> None:
    code = "\n".join(line.partition("--")[0] for line in script.source.splitlines())
    assert not re.search(r"(_ms|_us|level|count|score|units)\s*\.\.[^.]", code)
