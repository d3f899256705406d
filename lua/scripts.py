"""The registry of scripts: their text, their SHA-1, and the names of what they take.

Scripts run by SHA (EVALSHA). An incompatible change of a script is a new file, so that a rolling deploy can hold both. A line
``-- @include NAME`` stands for ``includes/NAME.lua``, since Redis's scripts cannot load others.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

_INCLUDE = re.compile(r"^-- @include (\w+)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script.

    ``keys`` and ``argv`` name the parameters in order, as the script's own header does; a name that ends in ``...`` stands
    for any number. A test compares them with the header.
    """

    name: str
    keys: tuple[str, ...]
    argv: tuple[str, ...]
    source: str
    sha: str


def _load(name: str, *, keys: tuple[str, ...], argv: tuple[str, ...]) -> Script:
    folder = files(__package__)
    source = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    source = _INCLUDE.sub(lambda found: folder.joinpath("includes", f"{found[1]}.lua").read_text(encoding="utf-8"), source)
    return Script(name, keys, argv, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


CHECK = _load("check", keys=("...",), argv=("now_us", "deadline_us", "terms_count", "..."))
"""Decides many checks in one call."""

APPLY_VERDICT = _load(
    "apply_verdict",
    keys=("abuse", "verdict"),
    argv=(
        "subject",
        "verdict_id",
        "rule",
        "scope",
        "at_ms",
        "start",
        "mode",
        "half_life_ms",
        "keep_ms",
        "channel",
        "now_ms",
        "jitter",
        "...",
    ),
)
"""Turns one offence into a warning, a factor or a ban."""

APPLY_RULING = _load(
    "apply_ruling",
    keys=("abuse", "verdict"),
    argv=("subject", "verdict_id", "penalty", "scope", "duration_ms", "digest", "keep_ms", "channel", "now_ms"),
)
"""Bans, lifts or forgives, as a person decided."""

RESTORE_STATE = _load("restore_state", keys=("abuse",), argv=("subject", "state", "rev", "expires_at_ms", "channel"))
"""Puts back one subject's state after Redis was emptied."""

RESET_BUCKETS = _load("reset_buckets", keys=("verdict", "..."), argv=("subject", "digest", "keep_ms", "channel"))
"""Fills buckets."""

REGISTER_POLICIES = _load(
    "register_policies",
    keys=("policies", "files", "request"),
    argv=("occasion", "version", "document", "least_generation", "actor", "reason", "channel", "keep_ms"),
)
"""Gives a policies document its generation."""

CHANGE_OVERRIDE = _load(
    "change_override",
    keys=("overrides", "revisions", "ends", "revision", "request"),
    argv=("field", "override", "until_ms", "subject", "most", "channel", "keep_ms"),
)
"""Sets or removes one override."""

POLL = _load(
    "poll",
    keys=("policies", "revision", "factors", "enforcers"),
    argv=("version", "source", "alive_ms", "abandoned_ms"),
)
"""Tells one enforcer what is in force, and notes that it is alive."""

SHARE_QUOTA = _load("share_quota", keys=("shares",), argv=("member", "demand", "quantum", "ttl_ms", "channel", "now_ms"))
"""Gives one enforcer its share of a limit that data planes spend."""

SET_FACTOR = _load(
    "set_factor",
    keys=("factors",),
    argv=("action", "factor", "probes", "owner", "ttl_ms", "takeover_ms", "channel", "now_ms"),
)
"""Puts the throttle factor of one action in force, unless another detector holds it."""
