"""Events on disk: kept in order, bounded, and never handed out when they are not what was written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.events.spool import Spool, SpoolCorrupt, Spooled, find_abandoned

Made = tuple[list[Spooled], list[int]]


def make(first: int, count: int = 10, *, is_allow: bool = True, size: int = 100) -> list[Spooled]:
    return [Spooled(seq, f"user={seq}".encode(), b"v" * size, is_allow) for seq in range(first, first + count)]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    one = Spool(tmp_path / "name-0" / "boot", 10**6)
    one.open()
    yield one
    one.close()


def drain(spool: Spool) -> list[Spooled]:
    records = []
    while not spool.is_empty:
        segment = spool.oldest
        records += spool.read(segment)
        spool.discard(segment)
    return records


def test_events_come_back_as_they_were_in_their_order(spool: Spool) -> None:
    batches = [make(1), [Spooled(0, b"", b'{"type":"gap"}', is_allow=False)], make(11, is_allow=False)]
    for batch in batches:
        assert spool.append(batch) == []
    assert not spool.is_empty
    assert drain(spool) == [record for batch in batches for record in batch]
    assert (spool.is_empty, spool.size_bytes) == (True, 0)


@given(
    records=st.lists(
        st.builds(Spooled, st.integers(1, 2**60), st.binary(max_size=1023), st.binary(max_size=300), st.booleans()), max_size=20
    )
)
def test_any_content_comes_back(records: list[Spooled], tmp_path_factory: pytest.TempPathFactory) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool") / "boot", 10**9)
    spool.open()
    spool.append(records)
    assert drain(spool) == records
    spool.close()


def test_segment_stays_until_it_is_discarded(spool: Spool) -> None:
    spool.append(make(1))
    assert spool.read(spool.oldest) == spool.read(spool.oldest) == make(1)
    spool.discard(spool.oldest)
    assert spool.is_empty


def test_full_spool_gives_up_the_oldest_allows_first_and_says_which(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "boot", 4_000)
    spool.open()
    lost = spool.append(make(1, 10) + make(11, 5, is_allow=False))
    lost += spool.append(make(16, 10))
    lost += spool.append(make(26, 10))
    kept = drain(spool)
    assert sorted(lost + [record.seq for record in kept]) == list(range(1, 36))
    assert lost == list(range(1, 11)) + lost[10:]
    assert {record.seq for record in kept} >= {*range(11, 16), *range(26, 36)}
    spool.close()


def test_spool_full_of_refusals_gives_up_the_oldest_segments(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "boot", 4_000)
    spool.open()
    lost = [seq for first in range(1, 101, 10) for seq in spool.append(make(first, is_allow=False))]
    assert spool.size_bytes <= 4_000
    kept = [record.seq for record in drain(spool)]
    assert lost + kept == list(range(1, 101))
    spool.close()


def test_size_is_what_stands_on_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "boot", 5_000)
    spool.open()
    for number in range(8):
        spool.append(make(1 + number * 20, 10) + make(11 + number * 20, 10, is_allow=False))
        assert spool.size_bytes == sum(path.stat().st_size for path in (tmp_path / "boot").glob("*.segment"))
    spool.close()


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.99])
def test_flipped_byte_costs_what_follows_and_the_loss_is_known(spool: Spool, place: float) -> None:
    spool.append(make(1, 50))
    path = spool.oldest
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SpoolCorrupt) as corrupt:
        spool.read(path)
    readable = corrupt.value.readable
    assert readable == make(1, 50)[: len(readable)]
    assert [record.seq for record in readable] + corrupt.value.lost == list(range(1, 51))


@pytest.mark.parametrize("keep", [0, 3, 100, 1000])
def test_cut_segment_is_corrupt_and_the_loss_is_known(spool: Spool, keep: int) -> None:
    spool.append(make(1, 50))
    path = spool.oldest
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SpoolCorrupt) as corrupt:
        spool.read(path)
    assert [record.seq for record in corrupt.value.readable] + corrupt.value.lost == list(range(1, 51))


def test_append_that_fails_keeps_nothing(spool: Spool) -> None:
    spool.append(make(1))
    spool.folder.rename(spool.folder.with_name("elsewhere"))
    with pytest.raises(OSError, match="No such file"):
        spool.append(make(11))
    spool.folder.with_name("elsewhere").rename(spool.folder)
    assert drain(spool) == make(1)


def test_folder_is_held_against_other_processes(spool: Spool) -> None:
    with pytest.raises(OSError, match="temporarily unavailable"):
        Spool(spool.folder, 10**6).open()


def test_empty_spool_leaves_nothing_behind(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "boot", 10**6)
    spool.open()
    spool.append(make(1))
    drain(spool)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_abandoned_spools_are_found_and_live_ones_are_not(tmp_path: Path) -> None:
    left = Spool(tmp_path / "a", 10**6)
    left.open()
    left.append(make(1))
    left.append(make(11))
    left.close()
    live = Spool(tmp_path / "b", 10**6)
    live.open()
    live.append(make(21))
    (tmp_path / "a" / "segment.tmp").write_bytes(b"half")
    found = list(find_abandoned(tmp_path, 10**6))
    assert [spool.folder.name for spool in found] == ["a"]
    assert drain(found[0]) == make(1, 20)
    found[0].close()
    live.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
    assert list(find_abandoned(tmp_path / "absent", 10**6)) == []
