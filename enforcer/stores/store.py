"""Redis on the hot path: what is in flight is coalesced into one EVALSHA, pipelined, never retried."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import hiredis
import structlog

from enforcer.decisions.decision import Ban, Decision, Reading, Warned
from enforcer.decisions.plan import Plan, Template
from enforcer.decisions.throttling import Throttling, find_factor
from enforcer.limits.bucket import UNLOWERED, Status
from enforcer.limits.policy import Limit
from enforcer.stores.connection import Connection, connect, pack_command
from lua.address import parse_address
from lua.scripts import CHECK

MOST_CHECKS_PER_CALL = 128
MOST_CALLS_IN_FLIGHT = 2

_RECONNECT_S = (0.02, 0.05, 0.1, 0.2, 0.5)
_GIVE_UP_AFTER_S = 1.0
"""A server that is connected but silent for so long gets a new connection."""
GRACE_S = 0.001
"""An answer may wait in the socket because this process was busy."""
_COMPLAIN_EVERY_S = 1.0
_OFFSET_DECAY_US = 20
"""How much the clock offset may fall per call: it follows a server clock that steps back."""

_BAN = int(Status.BAN)

log = structlog.get_logger(__name__)

Answer = Callable[[Plan, Decision], None]
Receive = Callable[[Plan, Answer, Reading | None], None]
"""Takes the reading, or None: no answer in time. Then the tokens may be spent: do not ask again for this check."""
Entry = tuple[Plan, Answer, Receive]


@dataclass(slots=True)
class StoreStats:
    """Counts since the start; read by the metrics, written on the loop only."""

    calls: int = 0
    checks: int = 0
    timeouts: int = 0
    errors: int = 0
    late: int = 0
    """Calls that Redis answered only after their deadline; they took nothing."""
    failed_checks: int = 0
    """Checks of calls that succeeded, which failed by themselves: a key of a wrong type, no memory left."""
    reconnects: int = 0
    reloads: int = 0
    """SCRIPT LOADs."""


@dataclass(slots=True)
class Call:
    """One EVALSHA on its way. ``entries`` is emptied when its callers have been answered otherwise."""

    entries: list[Entry]
    command: bytes
    sent_s: float
    is_abandoned: bool = False
    is_setup: bool = False
    is_redirected: bool = False
    """Another node of a cluster has passed it on: it is not passed on again."""


@dataclass(slots=True, eq=False)
class RedisStore:
    """Takes tokens for checks. One connection; all methods belong to the event loop that called ``start``.

    A call that is not answered within ``timeout_s`` is given up: its callers get None, as does everybody else until Redis
    answers again (a circuit breaker whose probe is the very call that is late). The script is told the deadline in Redis
    time, so a Redis that stalls and wakes takes no tokens for callers who have left.
    """

    url: str
    timeout_s: float = 0.01
    stats: StoreStats = field(default_factory=StoreStats)
    is_available: bool = False
    factors: dict[str, Throttling] = field(default_factory=dict)
    """What throttles actions, by their names; changed in place by whoever knows them."""
    on_change: Callable[[bool], None] = lambda _: None
    """Told when Redis becomes available or stops being so."""
    _queue: deque[Entry] = field(default_factory=deque)
    _in_flight: deque[Call] = field(default_factory=deque)
    _is_flush_due: bool = False
    _offset_us: float | None = None
    _complains_at_s: float = 0.0
    _connection: Connection | None = None
    _task: asyncio.Task[None] | None = None
    _timer: asyncio.TimerHandle | None = None
    _loop: asyncio.AbstractEventLoop = field(init=False)

    def start(self) -> asyncio.Task[None]:
        """Connect in the background, for as long as the returned task runs; until then every check gets None."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._keep_connected())
        return self._task

    async def close(self) -> None:
        """Close the connection; callers still waiting get None."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._abandon_all()
        if self._connection is not None:
            self._connection.transport.abort()

    def take(self, plan: Plan, answer: Answer, receive: Receive) -> None:
        """Take the plan's tokens, atomically with whatever else is in flight.

        Never waits, never raises, never retries. ``receive`` is called exactly once, on the loop, with the plan, what
        ``answer`` is (it is only handed on) and the reading.
        """
        if not self.is_available:
            receive(plan, answer, None)
            return
        self._queue.append((plan, answer, receive))
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        while self._queue and self.is_available and len(self._in_flight) < MOST_CALLS_IN_FLIGHT:
            count = min(len(self._queue), MOST_CHECKS_PER_CALL)
            self._send_new([self._queue.popleft() for _ in range(count)], time.monotonic())

    def _send_new(self, entries: list[Entry], sent_s: float) -> None:
        """Send one call; its deadline counts from ``sent_s``."""
        deadline_us = 0 if self._offset_us is None else int(self._offset_us + (sent_s + self.timeout_s) * 1e6)
        self._send(Call(entries, pack_call([entry[0] for entry in entries], deadline_us, self.factors), sent_s))

    def _send(self, call: Call) -> None:
        assert self._connection is not None  # noqa: S101 available means connected
        self.stats.calls += 1
        self.stats.checks += len(call.entries)
        self._in_flight.append(call)
        self._connection.transport.write(call.command)
        if self._timer is None:
            self._timer = self._loop.call_later(max(0.0, call.sent_s + self.timeout_s - time.monotonic()), self._expire)

    def _expire(self) -> None:
        """The oldest call's deadline has come."""
        # The answer may wait in the socket because this process was busy: let the loop read once more before judging.
        self._timer = self._loop.call_later(GRACE_S, self._judge)

    def _judge(self) -> None:
        self._timer = None
        now_s = time.monotonic()
        for call in self._in_flight:
            if call.is_abandoned:
                continue
            if call.sent_s + self.timeout_s > now_s:
                self._timer = self._loop.call_later(max(0.0, call.sent_s + self.timeout_s - time.monotonic()), self._expire)
                break
            self.stats.timeouts += 1
            self._abandon_all()
            self._set_available(False)
            self._loop.call_later(_GIVE_UP_AFTER_S, self._give_up, call)
            break

    def _give_up(self, call: Call) -> None:
        if call in self._in_flight and self._connection is not None:
            log.warning("redis_silent", seconds=_GIVE_UP_AFTER_S)
            self._connection.transport.abort()

    def _abandon_all(self) -> None:
        waiting = [entry for call in self._in_flight for entry in call.entries]
        waiting.extend(self._queue)
        self._queue.clear()
        for call in self._in_flight:
            call.entries, call.is_abandoned = [], True
        for plan, answer, receive in waiting:
            receive(plan, answer, None)

    def _set_available(self, is_available: bool) -> None:
        if is_available != self.is_available:
            self.is_available = is_available
            self.on_change(is_available)

    def _receive(self, reply: Any) -> None:
        """One reply, in the order of the calls."""
        call = self._in_flight.popleft()
        if isinstance(reply, hiredis.ReplyError):
            self._receive_error(call, reply)
            return
        if call.is_setup:
            return
        received_s = time.monotonic()
        now_us = reply[0]
        offset_us = now_us - received_s * 1e6
        known = self._offset_us
        self._offset_us = offset_us if known is None else max(offset_us, known - _OFFSET_DECAY_US)
        if self._timer is not None and not self._in_flight:
            self._timer.cancel()
            self._timer = None
        if not self.is_available and not any(later.is_abandoned for later in self._in_flight):
            self._set_available(True)
        entries = call.entries
        if len(reply) == 1:
            self.stats.late += 1
            for plan, answer, receive in entries:
                receive(plan, answer, None)
        else:
            for position, (plan, answer, receive) in enumerate(entries, 1):
                reading = read_result(plan, reply[position], now_us, call.sent_s)
                if reading is None:
                    self._complain(plan, reply[position][1], received_s)
                receive(plan, answer, reading)
        if self._queue and not self._is_flush_due:
            self._flush()

    def _complain(self, plan: Plan, error: bytes, now_s: float) -> None:
        """Say that a check failed on the server; seldom, for without memory left every check does."""
        self.stats.failed_checks += 1
        if now_s >= self._complains_at_s:
            self._complains_at_s = now_s + _COMPLAIN_EVERY_S
            log.warning(
                "check_failed",
                error=error.decode(errors="replace"),
                subjects=plan.subjects,
                failed_so_far=self.stats.failed_checks,
            )

    def _receive_error(self, call: Call, error: Exception) -> None:
        if str(error).startswith("NOSCRIPT"):
            # The call had no effect: load the script and repeat it, as it stands, within its first deadline.
            self._load_script()
            if not call.is_abandoned:
                self._send(call)
            return
        self.stats.errors += 1
        log.warning("redis_refused", error=str(error))
        entries, call.entries = call.entries, []
        for plan, answer, receive in entries:
            receive(plan, answer, None)
        if self._connection is not None:
            # READONLY after a failover, LOADING, a lost ACL: a new connection asks the server anew.
            self._connection.transport.abort()

    def _load_script(self) -> None:
        assert self._connection is not None  # noqa: S101 only called on a reply
        self.stats.reloads += 1
        command = pack_command("SCRIPT", "LOAD", CHECK.source)
        self._in_flight.append(Call([], command, time.monotonic(), is_setup=True))
        self._connection.transport.write(command)

    async def _keep_connected(self) -> None:
        address = parse_address(self.url)
        attempt = 0
        while True:
            try:
                connection = await connect(address, self._receive)
            except (OSError, hiredis.HiredisError) as error:
                wait_s = _RECONNECT_S[min(attempt, len(_RECONNECT_S) - 1)]
                if attempt in {0, 10} or attempt % 100 == 0:
                    log.warning("redis_unreachable", error=str(error) or type(error).__name__, answers="without Redis")
                attempt += 1
                await asyncio.sleep(wait_s)
                continue
            attempt = 0
            self._connection = connection
            self.stats.reconnects += 1
            self._offset_us = None
            self._load_script()
            self._set_available(True)
            log.info("redis_connected")
            await connection.lost
            self._connection = None
            self._set_available(False)
            self._abandon_all()
            self._in_flight.clear()


def pack_call(plans: Sequence[Plan], deadline_us: int, factors: Mapping[str, Throttling]) -> bytes:
    """Write one EVALSHA of ``check.lua`` for several plans; what they share is sent once."""
    keys: list[str] = []
    checks: list[int] = []
    shape_indexes: dict[tuple[Template, int | tuple[int, ...], int], int] = {}
    for plan in plans:
        keys += plan.keys
        form = (plan.template, plan.costs or plan.check.cost, find_factor(plan, factors) if factors else UNLOWERED)
        index = shape_indexes.get(form)
        if index is None:
            index = shape_indexes[form] = len(shape_indexes) + 1
        checks.append(index)
    limit_indexes: dict[Limit, int] = {}
    shapes: list[str | int] = []
    for template, costs, factor in shape_indexes:
        cost = costs if isinstance(costs, int) else ",".join(map(str, costs))
        shapes += (template.action, cost, factor, len(template.kinds), len(template.limits))
        for limit in template.limits:
            index = limit_indexes.setdefault(limit, len(limit_indexes) + 1)
            shapes.append(-index if limit.is_shadow else index)
    head: list[str | int] = ["", deadline_us, len(limit_indexes)]
    for limit in limit_indexes:
        terms = limit.terms
        head += (terms.capacity_units, terms.refill, terms.period_ticks, terms.tick_us, terms.tag, terms.generation.since_us)
    return pack_command("EVALSHA", CHECK.sha, len(keys), *keys, *head, len(shape_indexes), *shapes, *checks)


def read_result(plan: Plan, result: Sequence[Any], now_us: int, sent_s: float) -> Reading | None:
    """Read one check's result; None when the check failed on the server (it took nothing)."""
    status = result[0]
    if status < _BAN:
        end = 4 + len(plan.template.limits)
        warned = None
        if len(result) > end:
            until_ms, rule, verdict_id, subject = result[end:]
            warned = Warned(until_ms, rule.decode(), verdict_id.decode(), plan.subjects[subject - 1])
        refused, refused_at_1 = result[2], result[3]
        if isinstance(refused, bytes):
            refused, refused_at_1 = int(refused[::-1], 2), int(refused_at_1[::-1], 2)
        return Reading(now_us, status, result[1], refused, refused_at_1, tuple(result[4:end]), None, warned, sent_s=sent_s)
    if status == _BAN:
        _, until_ms, level, rule, verdict_id, subject, scope = result
        ban = Ban(
            until_ms, level, rule.decode(), verdict_id.decode(), plan.subjects[subject - 1], tuple(scope.decode().split(","))
        )
        return Reading(now_us, Status.BAN, ban=ban, sent_s=sent_s)
    return None
