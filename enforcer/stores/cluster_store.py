"""A Redis Cluster on the hot path: a store for each master, calls within a slot, checks over several slots in parts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hiredis
import structlog

from enforcer.decisions.plan import Plan
from enforcer.decisions.throttling import Throttling
from enforcer.stores.cluster_plan import split_plan
from enforcer.stores.connection import connect, pack_command
from enforcer.stores.parted_check import PartedCheck
from enforcer.stores.store import MOST_CHECKS_PER_CALL, Answer, Call, Entry, Receive, RedisStore, StoreStats
from lua.address import parse_address
from lua.cluster_address import is_cluster, list_cluster_nodes, name_cluster_node
from lua.keys import SLOTS, find_slot

MOST_CALLS_PER_NODE = 64
"""Few checks share a slot, so what is in flight is many small calls."""

_LOOK_EVERY_S = 10.0
_LOOK_AGAIN_S = 0.1
"""While something is amiss; also the least time between two looks."""

log = structlog.get_logger(__name__)

Redirect = Callable[[Call, str, "NodeStore"], None]


class NodeStore(RedisStore):
    """One master: a store whose calls hold checks of one slot each, and that passes on what another node has to decide."""

    def __init__(self, url: str, timeout_s: float, stats: StoreStats, redirect: Redirect) -> None:
        """Prepare.

        Args:
            url: Of this node.
            timeout_s: As for any store.
            stats: Shared by all nodes.
            redirect: Answers the entries of a call that this node did not take; given the call, the error and the node.
        """
        super().__init__(url, timeout_s, stats)
        self._redirect = redirect

    def take_redirected(self, entries: list[Entry], sent_s: float, *, is_asking: bool) -> None:
        """Take what another node did not, within the first deadline. All of one slot.

        Args:
            entries: At most ``MOST_CHECKS_PER_CALL``.
            sent_s: When they were first sent.
            is_asking: The slot is still on its way to this node.
        """
        if not self.is_available or self._connection is None:
            _answer_none(entries)
            return
        if is_asking:
            command = pack_command("ASKING")
            self._in_flight.append(Call([], command, sent_s, is_setup=True))
            self._connection.transport.write(command)
        self._send_new(entries, sent_s)
        self._in_flight[-1].is_redirected = True

    def _flush(self) -> None:
        self._is_flush_due = False
        if not self.is_available or len(self._in_flight) >= MOST_CALLS_PER_NODE:
            return
        by_slot: dict[int, list[Entry]] = {}
        for entry in self._queue:
            by_slot.setdefault(find_slot(entry[0].keys[0]) if entry[0].keys else 0, []).append(entry)
        self._queue.clear()
        now_s = time.monotonic()
        for entries in by_slot.values():
            for first in range(0, len(entries), MOST_CHECKS_PER_CALL):
                self._send_new(entries[first : first + MOST_CHECKS_PER_CALL], now_s)

    def _receive_error(self, call: Call, error: Exception) -> None:
        text = str(error)
        if call.is_abandoned or not text.startswith(("MOVED ", "ASK ", "TRYAGAIN")):
            super()._receive_error(call, error)
            return
        # None of these has had an effect, and the connection is as good as before.
        if text.startswith("TRYAGAIN") or call.is_redirected:
            self.stats.errors += 1
            _answer_none(call.entries)
        else:
            self._redirect(call, text, self)
        if self._queue and not self._is_flush_due:
            self._flush()


@dataclass(slots=True)
class ClusterStore:
    """Takes tokens for checks from a Redis Cluster. All methods belong to the event loop that called ``start``.

    Each master is asked as a server of its own: over one pipelined connection, with its own deadline, clock and circuit
    breaker. A check whose keys lie in several slots is asked in parts (see ``cluster_plan``); between the take of one part and
    its refund others see fewer tokens, never more. Where a master is away its slots' checks get None; other slots go on.
    """

    url: str
    timeout_s: float = 0.01
    stats: StoreStats = field(default_factory=StoreStats)
    """Of all masters together. A check in several parts counts once for each."""
    is_available: bool = False
    """Every slot has a master that answers."""
    factors: dict[str, Throttling] = field(default_factory=dict)
    """What throttles actions, by their names; changed in place by whoever knows them."""
    on_change: Callable[[bool], None] = lambda _: None
    """Told when ``is_available`` changes."""
    _nodes: dict[str, NodeStore] = field(default_factory=dict)
    """By URL."""
    _slots: list[NodeStore | None] = field(default_factory=lambda: [None] * SLOTS)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _closing: set[asyncio.Task[None]] = field(default_factory=set)
    _failure: BaseException | None = None

    def start(self) -> asyncio.Task[None]:
        """Find the masters and connect in the background, for as long as the returned task runs."""
        self._task = asyncio.get_running_loop().create_task(self._keep_topology())
        return self._task

    async def close(self) -> None:
        """Close the connections; callers still waiting get None."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.gather(*(node.close() for node in self._nodes.values()), *self._closing)

    def take(self, plan: Plan, answer: Answer, receive: Receive) -> None:
        """Take the plan's tokens, from all buckets or from none. As ``RedisStore.take``, and within the same time."""
        parts = split_plan(plan)
        nodes = [node for part in parts if (node := self._slots[part.slot]) is not None and node.is_available]
        if len(nodes) < len(parts):
            receive(plan, answer, None)
        elif len(parts) == 1:
            nodes[0].take(plan, answer, receive)
        else:
            PartedCheck(parts, nodes, (plan, answer, receive)).start(self.timeout_s)

    def _redirect(self, call: Call, error: str, node: NodeStore) -> None:
        """Pass a call on to the node that the error names: ``MOVED 3999 127.0.0.1:6381``, or ``ASK`` while a slot moves."""
        kind, slot, target = error.split()
        host, _, port = target.rpartition(":")
        other = self._open_node(name_cluster_node(node.url, host, int(port)))
        if kind == "MOVED":
            self._slots[int(slot)] = other
            self._wake.set()
        other.take_redirected(call.entries, call.sent_s, is_asking=kind == "ASK")

    def _open_node(self, url: str) -> NodeStore:
        node = self._nodes.get(url)
        if node is None:
            node = self._nodes[url] = NodeStore(url, self.timeout_s, self.stats, self._redirect)
            node.factors = self.factors
            node.on_change = self._note_change
            node.start().add_done_callback(self._note_end)
        return node

    def _note_change(self, _: bool) -> None:
        self._judge_availability()
        self._wake.set()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._wake.set()

    def _judge_availability(self) -> None:
        is_available = all(node is not None and node.is_available for node in set(self._slots))
        if is_available != self.is_available:
            self.is_available = is_available
            self.on_change(is_available)

    async def _keep_topology(self) -> None:
        has_failed = False
        while True:
            try:
                self._adopt(*await self._look())
                has_failed = False
            except OSError as error:
                if not has_failed:
                    log.warning("redis_cluster_unknown", error=str(error), answers="by what is known of it")
                has_failed = True
            self._judge_availability()
            await asyncio.sleep(_LOOK_AGAIN_S)
            if self.is_available:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_EVERY_S):  # Python 3.11's wait_for can swallow a cancellation
                        await self._wake.wait()
            self._wake.clear()
            if self._failure is not None:
                raise self._failure

    async def _look(self) -> tuple[str, list[Any]]:
        """Ask whoever answers first for the slots; those that answered lately are asked first.

        Returns:
            The URL of the node that answered, and its answer to ``CLUSTER SLOTS``.

        Raises:
            OSError: Nobody answers.
        """
        known = sorted(self._nodes, key=lambda url: not self._nodes[url].is_available)
        problem: Exception | None = None
        for url in dict.fromkeys((*known, *list_cluster_nodes(self.url))):
            try:
                connection = await connect(parse_address(url), _ignore_reply)
                try:
                    return url, await connection.ask("CLUSTER", "SLOTS")
                finally:
                    connection.transport.abort()
            except (OSError, hiredis.HiredisError) as error:
                problem = error
        raise ConnectionError(f"no node tells where the slots are: {problem}")

    def _adopt(self, asked_url: str, ranges: list[Any]) -> None:
        """Take over who has which slot; nodes that own none and do not answer are let go."""
        slots: list[NodeStore | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            node = self._open_node(name_cluster_node(asked_url, (host or b"").decode(), port))
            slots[first : last + 1] = [node] * (last + 1 - first)
        self._slots = slots
        owners = set(slots)
        for url, node in list(self._nodes.items()):
            if node not in owners and not node.is_available:
                del self._nodes[url]
                closing = asyncio.get_running_loop().create_task(node.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)


Store = RedisStore | ClusterStore


def open_store(url: str, timeout_s: float) -> Store:
    """The store that a Redis URL asks for; it connects when it is started."""
    return ClusterStore(url, timeout_s) if is_cluster(url) else RedisStore(url, timeout_s)


def _answer_none(entries: list[Entry]) -> None:
    for plan, answer, receive in entries:
        receive(plan, answer, None)


def _ignore_reply(_: Any) -> None:
    """Only asked for what is waited for."""
