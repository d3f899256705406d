"""Rulings, resets and the walk through what is held, on a Redis Cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from devstack.stack import RunningStack, StackSpec, start
from enforcer.admin.ruling import Ruling
from enforcer.admin.subject_store import SubjectStore
from lua.address import open_client
from lua.keys import name_bucket


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with start(StackSpec(parts=frozenset(), cluster=True)) as stack:
        yield stack


@pytest.fixture
async def store(stack: RunningStack) -> AsyncIterator[SubjectStore]:
    store = SubjectStore(open_client(stack.addresses.cluster_url))
    yield store
    await store.close()


async def test_bans_on_every_node_are_on_one_of_the_pages(store: SubjectStore) -> None:
    subjects = {f"user=banned-{number}" for number in range(40)}
    for subject in subjects:
        ruled = await store.rule(Ruling("v", "d", subject, "ban", "alice", "because", ("*",), 60_000))
        state, now_ms = await store.read(subject)
        assert state is not None
        assert state.bans[0].until_ms == ruled.finding.until_ms > now_ms
    found, place, pages = [], "", 0
    while pages == 0 or place:
        page = await store.list_held(place, 5)
        found += [subject for subject, _ in page.states]
        place, pages = page.next_place, pages + 1
    assert sorted(found) == sorted(subjects)
    assert pages >= 3, "each node's keys are a page of their own"


async def test_buckets_of_each_hash_tag_are_filled_on_the_node_that_holds_them(store: SubjectStore) -> None:
    for tag in ("user=alice", "action=login", "action=search"):
        bucket = name_bucket(tag, "default", "per_user")
        await store.client.set(bucket, "0 0 a")
        first = await store.reset("user=alice", tag, "v", "d", [bucket])
        again = await store.reset("user=alice", tag, "v", "d", [bucket])
        assert (first.is_repeat, again.is_repeat) == (False, True)
        assert await store.client.exists(bucket) == 0
