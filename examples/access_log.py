"""Requests out of an access log in Common or Combined Log Format. Pure.

Source: Apache HTTP Server, mod_log_config: ``%h %l %u %t "%r" %>s %b`` and, combined, ``"%{Referer}i" "%{User-agent}i"``.
nginx writes the same with its format ``combined``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache

LONGEST_LINE = 65_536
"""Characters; what is longer is no request that a web server accepted."""

ActionOf = Callable[["LogRecord"], str]

_LINE = re.compile(
    r"(?P<host>\S+) (?P<ident>\S+) (?P<user>.+?) "  # user names may hold spaces
    r"\[(?P<time>\d\d/[A-Za-z]{3}/\d{4}:\d\d:\d\d:\d\d) (?P<zone>[+-]\d{4})\] "
    r'"(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) (?P<size>\d+|-)'
    r'(?: "(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)")?'
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|.)")
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "v": "\v", "f": "\f"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 reads as the arithmetic below does
_LOGIN_WORDS = ("login", "log-in", "signin", "sign-in", "session", "auth", "token")
_NOT_AN_ACTION = re.compile(r"[^A-Za-z0-9._~-]+")


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One request of a log.

    Attributes:
        line_number: From 1.
        at_ms: When the server took it, in milliseconds since the Unix epoch (logs have whole seconds).
        host: Address or host name of the client.
        user: The authenticated user; None where the log has ``-``.
        method: As sent; ``-`` where the request line is not one (a broken client, a port scan).
        path: Request target without its query.
        query: What stood behind the ``?``.
        status: Status of the answer.
        size_bytes: Size of the answer's body; None where the log has ``-``.
        referer: Empty where the log has none.
        user_agent: Empty where the log has none.
    """

    line_number: int
    at_ms: int
    host: str
    user: str | None
    method: str
    path: str
    query: str
    status: int
    size_bytes: int | None
    referer: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class MalformedLine:
    """A line that is not a request, and why."""

    line_number: int
    why: str
    excerpt: str
    """The first 120 characters."""


def parse_line(line: str, line_number: int) -> LogRecord | MalformedLine:
    """Parse one line, without or with its line end.

    Whatever follows the size and is not the two quoted strings of the combined format is passed over: formats that add
    fields at the end are read too, and so are lines whose last field was cut.
    """
    if len(line) > LONGEST_LINE:
        return MalformedLine(line_number, f"longer than {LONGEST_LINE} characters", line[:120])
    found = _LINE.match(line)
    if found is None:
        why = "empty" if not line.strip() else 'not of the form: host - user [day/Mon/year:h:m:s +zone] "request" status bytes'
        return MalformedLine(line_number, why, line[:120].rstrip("\r\n"))
    at_s = _parse_time(found["time"], found["zone"])
    if at_s is None:
        return MalformedLine(line_number, f"no such time: {found['time']} {found['zone']}", line[:120].rstrip("\r\n"))
    method, target = _parse_request(_unescape(found["request"]))
    path, _, query = target.partition("?")
    user = _unescape(found["user"])
    return LogRecord(
        line_number=line_number,
        at_ms=at_s * 1000,
        host=found["host"],
        user=None if user in ("-", '""') else user,
        method=method,
        path=path,
        query=query,
        status=int(found["status"]),
        size_bytes=None if found["size"] == "-" else int(found["size"]),
        referer=_unescape_optional(found["referer"]),
        user_agent=_unescape_optional(found["agent"]),
    )


def name_action_by_kind(record: LogRecord) -> str:
    """``login`` for a POST to a path that speaks of logging in, ``search`` for searches, else ``browse``."""
    path = record.path.lower()
    if record.method == "POST" and any(word in path for word in _LOGIN_WORDS):
        return "login"
    if "search" in path.rsplit("/", 1)[-1] or record.query.startswith("q=") or "&q=" in record.query:
        return "search"
    return "browse"


def name_action_by_path_prefix(record: LogRecord) -> str:
    """The first segment of the path: ``/blog/geekery/x.html`` is ``blog``; ``root`` for ``/`` and for no path."""
    segments = record.path.split("://", 1)[-1].split("/")
    return _NOT_AN_ACTION.sub("_", segments[1])[:128] or "root" if len(segments) > 1 else "root"


def name_action_by_method(record: LogRecord) -> str:
    """The method in small letters: ``get``; ``other`` for what is none."""
    return record.method.lower() if record.method.isascii() and record.method.isalpha() else "other"


ACTIONS_BY: dict[str, ActionOf] = {
    "kind": name_action_by_kind,
    "path-prefix": name_action_by_path_prefix,
    "method": name_action_by_method,
}
"""The ways to tell a request's action, by the name that ``replay --action-by`` takes."""


def _parse_request(request: str) -> tuple[str, str]:
    parts = request.split(" ")
    if len(parts) == 1 or not parts[0].isalpha():
        return "-", parts[0] if parts[0].startswith("/") else "-"
    if len(parts) > 2 and parts[-1].startswith("HTTP/"):
        parts.pop()
    return parts[0], " ".join(parts[1:])  # a target with unescaped spaces stays whole


@lru_cache(maxsize=4096)  # busy logs hold many lines of one second
def _parse_time(time: str, zone: str) -> int | None:
    try:
        month = _MONTHS.index(time[3:6].capitalize()) + 1
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
        at = datetime(
            int(time[7:11]),
            month,
            int(time[:2]),
            int(time[12:14]),
            int(time[15:17]),
            min(int(time[18:20]), 59),  # a leap second
            tzinfo=timezone(-offset if zone[0] == "-" else offset),
        )
    except ValueError:
        return None
    return int((at - _EPOCH).total_seconds())


def _unescape_optional(text: str | None) -> str:
    return "" if text is None or text == "-" else _unescape(text)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: _unescape_one(found[1]), text)


def _unescape_one(escape: str) -> str:
    if len(escape) == 3:
        return chr(int(escape[1:], 16))
    return _CONTROL.get(escape, escape)
