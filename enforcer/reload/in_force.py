"""Keep one enforcer at what is in force: the policies, overrides, throttle factors, and how many enforcers there are.

Off the decision path: four times a second Redis is asked, and the file is looked at. A new document is read and compiled apart,
and takes the old one's place between two checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
from redis.asyncio import Redis

from config.document import DocumentError, parse_document, read_text
from config.watching import watch_files
from enforcer.calls.decider import Decider
from enforcer.decisions.planner import Planner
from enforcer.decisions.throttling import Throttling
from enforcer.limits.bucket import Generation
from enforcer.limits.envoy_files import list_files, load_policies
from enforcer.limits.policy import Override, Policies
from enforcer.limits.policy_document import PoliciesDocument
from enforcer.reload.generations import (
    Factor,
    Occasion,
    State,
    leave,
    poll,
    read_document,
    register_file,
    restore_document,
)
from enforcer.reload.overrides import Changed, OverrideRefused, Target, read_changed
from enforcer.stores.redis_script import RedisAway
from lua.address import open_client

EVERY_S = 0.25
ANSWER_WITHIN_S = 1.0
"""Redis's time for one answer here; the decision path has its own."""
_OVERRIDES_AT_ONCE = 200
"""Taken in one go: about a millisecond, in which no check is answered."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Document:
    """A policies document that was found valid."""

    policies: Policies
    published: str = ""
    """The text that an admin published; empty: it is this host's file."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A document that was refused; the one before it stayed in force."""

    origin: str
    """The path, or ``document`` for one that was published."""
    problems: tuple[str, ...]
    at_ms: int


class InForce:
    """What one enforcer goes by. Belongs to one event loop; ``run`` alone changes it.

    Before Redis was reached once the file is in force, under generation 0.
    """

    def __init__(self, decider: Decider, path: Path) -> None:
        """Begin with the document that the decider's planner has.

        Args:
            decider: Its planner is replaced with every change.
            path: The file that this document is from, or a folder of files.
        """
        self.document = Document(decider.planner.policies)
        self.rejection: Rejection | None = None
        """Of the last document, if it was refused."""
        self.rejections = 0
        self.enforcers = 0
        """Processes that were last seen alive; 0 before Redis was reached."""
        self.path = path
        self._decider = decider
        self._watched = [path, *list_files(path)]
        """A folder too: files come and go."""
        self._of_file = self.document
        self._occasion: Occasion | None = "start"
        """Why the file is to be registered."""
        self._has_file_changed = False
        self._unreadable_generation = 0
        """Of a published document that this enforcer refuses."""
        self._revision = 0
        self._overrides: dict[str, dict[tuple[str, str], Override]] = {}
        self._ends: list[tuple[int, Target]] = []
        """Of the overrides, as a heap; some have changed since."""
        self._factors: dict[str, tuple[Throttling, float]] = {}
        """By action: what is in force, and when it ends on the monotonic clock."""
        self._ahead_ms = time.time() * 1000 - time.monotonic() * 1000
        """Of Redis's clock before the monotonic one."""
        self._wake = asyncio.Event()
        self._is_settled = asyncio.Event()

    @property
    def generation(self) -> Generation:
        """Of the policies in force."""
        return self._decider.planner.policies.generation

    @property
    def version(self) -> str:
        """Of the policies in force."""
        return self.document.policies.version

    @property
    def overrides(self) -> int:
        """How many subjects have overrides that were made at run time."""
        return len(self._overrides)

    def read_text(self) -> str:
        """The text of the policies in force; if this host's file is, as it stands there now.

        Raises:
            DocumentError: The file cannot be read.
        """
        return self.document.published or self.read_files()

    def read_files(self) -> str:
        """The text of this host's file, whatever is in force; a folder's files one by one.

        Raises:
            DocumentError: It cannot be read.
        """
        return "---\n".join(read_text(file) for file in list_files(self.path))

    def now_ms(self) -> int:
        """Redis's clock, as far as it is known; milliseconds since the epoch."""
        return int(time.monotonic() * 1000 + self._ahead_ms)

    def wake(self) -> None:
        """Look at once: something has changed."""
        self._wake.set()

    async def settle(self, within_s: float) -> None:
        """Wait until Redis was asked once, whatever came of it."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_settled.wait(), within_s)

    async def run(self) -> None:
        """Keep up, until it is cancelled."""
        source = self._decider.emitter.source
        client = open_client(self._decider.store.url, socket_timeout=ANSWER_WITHIN_S, socket_connect_timeout=ANSWER_WITHIN_S)
        watching = asyncio.create_task(watch_files(self._watched, self._note_file))
        is_away = False
        try:
            while True:
                self._wake.clear()
                if self._has_file_changed:
                    self._has_file_changed = False
                    await self._read_file()
                try:
                    await self._synchronize(client, source)
                    is_away = False
                except RedisAway as error:
                    if not is_away:
                        log.warning("redis_not_asked", error=str(error), policies="stay as they are")
                    is_away = True
                    await self._do_without_redis()
                self._is_settled.set()
                self._let_end()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), EVERY_S)
        finally:
            watching.cancel()
            with contextlib.suppress(RedisAway):
                await leave(client, source)
            await client.aclose()

    def _note_file(self) -> None:
        self._has_file_changed = True
        self.wake()

    async def _read_file(self) -> None:
        self._watched[:] = [self.path, *list_files(self.path)]
        try:
            document = Document(await asyncio.to_thread(load_policies, self.path))
        except DocumentError as error:
            self._reject(str(self.path), error)
            return
        self.rejection = None
        if document.policies.version != self._of_file.policies.version:
            self._of_file, self._occasion = document, "change"

    def _reject(self, origin: str, error: DocumentError) -> None:
        self.rejection = Rejection(origin, error.problems, self.now_ms())
        self.rejections += 1
        log.error("policies_rejected", origin=origin, problems=error.problems, stays_in_force=self.version)

    async def _do_without_redis(self) -> None:
        """A file that has changed is in force on this host whether or not Redis knows."""
        if self._occasion == "change" and self.document is not self._of_file:
            await self._put_in_force(self._of_file, self.generation)

    async def _synchronize(self, client: Redis, source: str) -> None:
        """Ask Redis, and follow.

        Raises:
            RedisAway: It gave no answer.
        """
        if self._occasion is not None:
            await self._register(client, self._occasion)
        state = await poll(client, self.version, source)
        self._ahead_ms = state.now_us / 1000 - time.monotonic() * 1000
        self.enforcers = self._decider.fallback.enforcers = state.enforcers
        self._take_factors(state.factors, state.now_us)
        await self._follow(client, state)
        if state.revision != self._revision:
            await self._read_overrides(client, state.revision)

    async def _register(self, client: Redis, occasion: Occasion) -> None:
        version = self._of_file.policies.version
        registered = await register_file(client, version, occasion, self.generation)
        if registered.version == version:
            await self._put_in_force(self._of_file, registered.generation)
        else:
            await self._take_published(client)
        self._occasion = None

    async def _follow(self, client: Redis, state: State) -> None:
        newest, own = state.generation.number, self.generation.number
        if newest < own or newest == 0 or state.is_abandoned:
            # Redis was emptied, or has a replica's older state, or who registered last is gone: what is here counts.
            await self._register_again(client)
        elif newest == own:
            return
        elif state.version == self.version:
            await self._put_in_force(self.document, state.generation)
        elif own < state.document_generation != self._unreadable_generation:
            await self._take_published(client)

    async def _register_again(self, client: Redis) -> None:
        document = self.document
        if document.published:
            registered = await restore_document(client, self.version, document.published, self.generation)
        else:
            registered = await register_file(client, self.version, "change", self.generation)
        await self._put_in_force(document, registered.generation)

    async def _take_published(self, client: Redis) -> None:
        found = await read_document(client)
        if found is None:
            return  # removed since
        text, generation = found
        try:
            document = await asyncio.to_thread(_load_published, text)
        except DocumentError as error:
            self._unreadable_generation = generation.number
            self._reject("document", error)
            return
        self.rejection = None
        await self._put_in_force(document, generation)

    async def _put_in_force(self, document: Document, generation: Generation) -> None:
        """Swap the planner between two checks, and forget what was remembered of the old one."""
        if self.document is document and self.generation == generation:
            return
        planner = await asyncio.to_thread(self._build_planner, document.policies.under(generation))
        self.document = document
        self._decider.planner = planner
        self._decider.refusals.clear()
        self._decider.emitter.folder.foldable = document.policies.foldable
        log.info(
            "policies_in_force",
            version=self.version,
            generation=generation.number,
            origin="published" if document.published else str(self.path),
        )

    def _build_planner(self, policies: Policies) -> Planner:
        """On a thread: the task that changes the overrides waits for it."""
        planner = Planner(policies, self.now_ms)
        planner.override(self._overrides)
        return planner

    def _take_factors(self, factors: tuple[Factor, ...], now_us: int) -> None:
        now_s = time.monotonic()
        self._factors = {
            factor.action: (
                Throttling(factor.per_mille, factor.probes, factor.until_ms),
                now_s + (factor.until_ms - now_us / 1000) / 1000,
            )
            for factor in factors
        }

    async def _read_overrides(self, client: Redis, revision: int) -> None:
        if revision < self._revision:  # Redis was emptied
            self._override(list(self._overrides), clear=True)
            self._revision = 0
        batch: list[Changed] = []
        async for changed in read_changed(client, self._revision):
            batch.append(changed)
            if len(batch) >= _OVERRIDES_AT_ONCE:
                self._take_overrides(batch)
                batch = []
                await asyncio.sleep(0)
        self._take_overrides(batch)
        self._revision = max(self._revision, revision)

    def _take_overrides(self, batch: list[Changed]) -> None:
        for target, override, revision in batch:
            of_subject = self._overrides.setdefault(target.subject, {})
            of_subject.pop((target.policy, target.limit), None)
            if override is not None and override.until_ms > self.now_ms():
                try:
                    terms = override.compile_terms().under(Generation(0, override.since_ms * 1000))
                except OverrideRefused as error:
                    log.warning("override_unreadable", target=target, error=str(error))
                else:
                    of_subject[target.policy, target.limit] = Override(terms, override.until_ms)
                    heapq.heappush(self._ends, (override.until_ms, target))
            self._revision = revision
        self._override([changed.target.subject for changed in batch])

    def _override(self, subjects: list[str], *, clear: bool = False) -> None:
        """Put what is known of these subjects in force."""
        now_s = time.monotonic()
        for subject in subjects:
            if clear or not self._overrides.get(subject):
                self._overrides.pop(subject, None)
            self._decider.refusals.forget(subject, now_s)
        if subjects:
            self._decider.planner.override({subject: self._overrides.get(subject, {}) for subject in subjects})

    def _let_end(self) -> None:
        """Let factors and overrides end, also while Redis is away."""
        now_s, now_ms = time.monotonic(), self.now_ms()
        factors = self._decider.store.factors
        factors.clear()
        factors.update({action: factor for action, (factor, until_s) in self._factors.items() if until_s > now_s})
        ended: list[str] = []
        while self._ends and self._ends[0][0] <= now_ms and len(ended) < _OVERRIDES_AT_ONCE:
            until_ms, target = heapq.heappop(self._ends)
            override = self._overrides.get(target.subject, {}).get((target.policy, target.limit))
            if override is not None and override.until_ms == until_ms:
                del self._overrides[target.subject][target.policy, target.limit]
                ended.append(target.subject)
        self._override(ended)


def _load_published(text: str) -> Document:
    return Document(Policies.compile(parse_document(text, PoliciesDocument, name="document")), text)
