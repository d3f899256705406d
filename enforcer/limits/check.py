"""One check, validated. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

LARGEST_TEXT_BYTES = 1024
LARGEST_ACTION_BYTES = 128
MOST_ATTRIBUTES = 16
MOST_CHECKS_PER_BATCH = 1000
CALLER = "caller"
"""The attribute that an access document makes true: where policies declare it, it is the authenticated caller's name."""
MOST_SUPPRESSED = 1_000_000
MOST_SUPPRESSED_LIMITS = 32
LARGEST_LABEL = 256

is_action = re.compile(r"[!-~]{1,128}").fullmatch
"""Whether a text may be an action."""
_UNKNOWN = "unknown"
_ATTRIBUTE_NAME = re.compile(r"[a-z0-9_]{1,64}").fullmatch


class InvalidCheck(ValueError):  # noqa: N818 it says what is wrong
    """The check's content is out of bounds: the caller's fault. Never repeat it as it is, and never let it pass."""


class Check(msgspec.Struct, frozen=True, gc=False):
    """A request to spend tokens, within bounds."""

    user_id: str
    action: str
    cost: int = 1
    """Whole tokens; 0 reads and changes nothing, below 0 is a refund, which Envoy alone may ask for."""
    attributes: dict[str, str] = {}
    suppressed: int = 0
    """Denials that the client answered from its own memory since its last check."""
    suppressed_limits: tuple[str, ...] = ()
    """Labels of the limits that had refused those."""


def validate_check(
    user_id: str,
    action: str,
    cost: int,
    attributes: Mapping[str, str],
    suppressed: int = 0,
    suppressed_limits: Sequence[str] = (),
) -> Check:
    """Bound every part of a check.

    Raises:
        InvalidCheck: Says which part, and what is allowed.
    """
    if not user_id:
        raise InvalidCheck("user_id is empty; 1 to 1024 bytes are allowed")
    if len(user_id) > LARGEST_TEXT_BYTES or (not user_id.isascii() and len(user_id.encode()) > LARGEST_TEXT_BYTES):
        raise InvalidCheck(f"user_id has {len(user_id.encode())} bytes; 1 to 1024 bytes are allowed")
    if not is_action(action):
        raise InvalidCheck(f"action {action[:64]!r} is not 1 to 128 printable ASCII characters without spaces")
    if cost < 0:
        raise InvalidCheck(f"cost is {cost}; whole tokens >= 0 are allowed")
    if attributes:
        _validate_attributes(attributes)
    if not suppressed:
        return Check(user_id, action, cost, dict(attributes) if attributes else {})
    _validate_suppressed(suppressed, suppressed_limits)
    return Check(user_id, action, cost, dict(attributes) if attributes else {}, suppressed, tuple(suppressed_limits))


def _validate_attributes(attributes: Mapping[str, str]) -> None:
    if len(attributes) > MOST_ATTRIBUTES:
        raise InvalidCheck(f"attributes has {len(attributes)} entries; at most 16 are allowed")
    for name, value in attributes.items():
        if not _ATTRIBUTE_NAME(name) or name in {"user", "action"}:
            raise InvalidCheck(
                f"attributes: the key {name[:64]!r} is not allowed; 1 to 64 of a-z 0-9 _ are, but not `user` and `action`"
            )
        if len(value.encode()) > LARGEST_TEXT_BYTES:
            raise InvalidCheck(f"attributes: {name} has {len(value.encode())} bytes; at most 1024 are allowed")


def _validate_suppressed(suppressed: int, limits: Sequence[str]) -> None:
    if suppressed > MOST_SUPPRESSED:
        raise InvalidCheck(f"suppressed is {suppressed}; at most {MOST_SUPPRESSED} are allowed")
    if len(limits) > MOST_SUPPRESSED_LIMITS:
        raise InvalidCheck(f"suppressed_limits has {len(limits)} entries; at most {MOST_SUPPRESSED_LIMITS} are allowed")
    for label in limits:
        if len(label) > LARGEST_LABEL:
            raise InvalidCheck(
                f"suppressed_limits: {label[:64]!r} has {len(label)} characters; at most {LARGEST_LABEL} are allowed"
            )


@lru_cache(maxsize=4096)
def bound_action(text: str) -> str:
    """An action for any text: ``unknown`` for none, its SHA-256 for what is out of bounds."""
    if not text:
        return _UNKNOWN
    return text if is_action(text) else f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"
