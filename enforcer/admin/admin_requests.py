"""What operators ask, validated. Pure.

Every message names the field and says what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from enforcer.limits.check import LARGEST_TEXT_BYTES, InvalidCheck, validate_check
from enforcer.limits.policy import Policies
from lua.keys import is_subject, name_attribute, name_subject
from ratchet.v1 import admin_pb2

SHORTEST_BAN_MS = 1_000
LONGEST_BAN_MS = 366 * 86_400_000
MOST_GLOBS = 16
LARGEST_REASON_BYTES = 512
LARGEST_PAGE = 1_000
DEFAULT_PAGE = 100

_REQUEST_ID = re.compile(r"[!-~]{16,64}").fullmatch
_GLOB = re.compile(r"[A-Za-z0-9_.:/@+*-]{1,128}").fullmatch
_ACTION = re.compile(r"[!-~]{1,128}").fullmatch
_PLACE = re.compile(r"[0-9]{1,4}:[0-9]{1,20}").fullmatch


class RequestRefused(ValueError):  # noqa: N818 it says what is the case
    """The request's content is out of bounds: the caller's fault. Nothing was changed; do not repeat it as it is."""


class Change(NamedTuple):
    """What every change carries."""

    request_id: str
    reason: str


def read_change(message: admin_pb2.Change) -> Change:
    """Read the request id and the reason.

    Raises:
        RequestRefused: One of them is out of bounds.
    """
    if not _REQUEST_ID(message.request_id):
        raise RequestRefused(
            f"change.request_id is {message.request_id[:80]!r}; 16 to 64 bytes of printable ASCII without spaces are allowed"
        )
    size = len(message.reason.encode())
    if not message.reason.strip() or size > LARGEST_REASON_BYTES:
        said = f"has {size} bytes" if size > LARGEST_REASON_BYTES else "is empty"
        raise RequestRefused(f"change.reason {said}; 1 to {LARGEST_REASON_BYTES} bytes are allowed")
    return Change(message.request_id, message.reason)


def read_subject(message: admin_pb2.Subject, policies: Policies) -> str:
    """Read who is meant, as ``kind=value``.

    Raises:
        RequestRefused: Nobody, or a kind that the document in force does not declare.
    """
    kind, value = message.kind, message.value
    if message.name:
        if kind or value:
            raise RequestRefused("subject has a name beside kind and value; either is allowed")
        if not is_subject(message.name):
            raise RequestRefused(f"subject.name is {message.name[:64]!r}, which is no kind=value as it is printed in bans")
        kind = message.name.partition("=")[0]
    if kind not in policies.subjects:
        raise RequestRefused(f"subject.kind is {kind[:64]!r}; the policies in force declare {', '.join(policies.subjects)}")
    if message.name:
        return message.name
    size = len(value.encode())
    if not 1 <= size <= LARGEST_TEXT_BYTES:
        raise RequestRefused(f"subject.value has {size} bytes; 1 to {LARGEST_TEXT_BYTES} bytes are allowed")
    return name_subject(kind, value) if kind == "user" else name_attribute(kind, value)


def read_scope(globs: Sequence[str]) -> tuple[str, ...]:
    """Read the actions that a ban refuses; none means all.

    Raises:
        RequestRefused: There are too many, or one is none.
    """
    if len(globs) > MOST_GLOBS:
        raise RequestRefused(f"scope has {len(globs)} globs; at most {MOST_GLOBS} are allowed")
    for position, glob in enumerate(globs):
        # They are written into JSON by a script that escapes nothing, so the alphabet is what keeps that JSON whole.
        if not _GLOB(glob):
            raise RequestRefused(
                f"scope[{position}] is {glob[:64]!r}; 1 to 128 letters, digits, any of _ . : / @ + - and * are allowed"
            )
    return tuple(dict.fromkeys(globs)) or ("*",)


def read_duration_ms(duration_ms: int) -> int:
    """Read how long a ban lasts.

    Raises:
        RequestRefused: Out of bounds.
    """
    if not SHORTEST_BAN_MS <= duration_ms <= LONGEST_BAN_MS:
        raise RequestRefused(
            f"duration_ms is {duration_ms}; {SHORTEST_BAN_MS} (1 second) to {LONGEST_BAN_MS} (366 days) are allowed"
        )
    return duration_ms


def read_action(action: str) -> str:
    """Read an action, or none.

    Raises:
        RequestRefused: It is none that a check could have.
    """
    if action and not _ACTION(action):
        raise RequestRefused(f"action is {action[:64]!r}; 1 to 128 printable ASCII characters without spaces are allowed")
    return action


def read_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """Read further facts about a check.

    Raises:
        RequestRefused: They are none that a check could have.
    """
    try:
        return validate_check("-", "-", 0, attributes, 0).attributes
    except InvalidCheck as error:
        raise RequestRefused(str(error)) from error


def read_page(message: admin_pb2.ListBansRequest) -> tuple[str, int]:
    """Read where a page begins, and how many bans it shall have.

    Raises:
        RequestRefused: Too many, or a token that no page ended with.
    """
    if message.page_size > LARGEST_PAGE:
        raise RequestRefused(f"page_size is {message.page_size}; 1 to {LARGEST_PAGE} are allowed, and 0 for {DEFAULT_PAGE}")
    if message.page_token and not _PLACE(message.page_token):
        raise RequestRefused(f"page_token is {message.page_token[:64]!r}; what the page before ended with is allowed")
    return message.page_token, message.page_size or DEFAULT_PAGE
