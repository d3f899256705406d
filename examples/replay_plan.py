"""What of an access log is sent, and when. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from enforcer.client.client_ip import UNKNOWN, find_client_ip
from examples.access_log import ActionOf, LogRecord, MalformedLine, parse_line

SHOWN_MALFORMED = 20
LONGEST_USER_BYTES = 1_024
"""What an enforcer takes as a user id."""


@dataclass(frozen=True, slots=True)
class ReplayedRequest:
    """One request of a log as the enforcer is asked about it.

    Attributes:
        at_ms: When the log says it was.
        user: The authenticated user, else the client's address or host name.
        action: What selects the policy.
        ip: Canonical address; empty where the log has a host name.
    """

    at_ms: int
    user: str
    action: str
    ip: str


@dataclass(slots=True)
class ReplayPlan:
    """The requests of a log in the order of their times.

    Attributes:
        timed: Seconds from the first request, and the request.
        lines: Lines that were read.
        malformed: How many of them are no requests; ``shown`` holds the first of these.
        out_of_order: Requests that stand behind a later one: servers write a line when the answer has been sent.
        span_s: From the first request to the last, as the log has it.
        cut_s: How much of that the shortened silences left out.
        is_limited: The log goes on behind the last request that was taken.
    """

    timed: list[tuple[float, ReplayedRequest]] = field(default_factory=list)
    lines: int = 0
    malformed: int = 0
    shown: list[MalformedLine] = field(default_factory=list)
    out_of_order: int = 0
    span_s: float = 0.0
    cut_s: float = 0.0
    is_limited: bool = False

    @property
    def takes_s(self) -> float:
        """Seconds from the first to the last send at the log's own pace."""
        return self.timed[-1][0] if self.timed else 0.0


def plan_replay(lines: Iterable[str], *, action_of: ActionOf, limit: int, longest_gap_s: float | None = None) -> ReplayPlan:
    """Read a log and put its requests in the order of their times.

    Holds all requests in memory, about 400 bytes each.

    Args:
        lines: The log's lines.
        action_of: Tells a request's action.
        limit: Most requests to take.
        longest_gap_s: A longer silence of the log is shortened to this; None keeps them all.
    """
    plan = ReplayPlan()
    requests: list[ReplayedRequest] = []
    latest_ms = 0
    for line in lines:
        if len(requests) == limit:
            plan.is_limited = True
            break
        plan.lines += 1
        found = parse_line(line, plan.lines)
        if isinstance(found, MalformedLine):
            plan.malformed += 1
            if len(plan.shown) < SHOWN_MALFORMED:
                plan.shown.append(found)
            continue
        plan.out_of_order += found.at_ms < latest_ms
        latest_ms = max(latest_ms, found.at_ms)
        requests.append(_as_request(found, action_of))
    requests.sort(key=attrgetter("at_ms"))  # stable: requests of one second stay in the log's order
    before_ms, at_ms = requests[0].at_ms if requests else 0, 0
    for request in requests:
        gap_ms = request.at_ms - before_ms
        at_ms += gap_ms if longest_gap_s is None else min(gap_ms, round(longest_gap_s * 1000))
        before_ms = request.at_ms
        plan.timed.append((at_ms / 1000, request))
    if requests:
        plan.span_s = (requests[-1].at_ms - requests[0].at_ms) / 1000
        plan.cut_s = plan.span_s - plan.takes_s
    return plan


def _as_request(record: LogRecord, action_of: ActionOf) -> ReplayedRequest:
    found = find_client_ip(record.host, ())
    ip = "" if found == UNKNOWN else found
    user = record.user or ip or record.host
    if len(user.encode(errors="replace")) > LONGEST_USER_BYTES:
        user = user.encode(errors="replace")[:LONGEST_USER_BYTES].decode(errors="ignore")
    return ReplayedRequest(record.at_ms, user, action_of(record), ip)
