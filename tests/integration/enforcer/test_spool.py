from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.events.spool import Spool, SpoolCorrupt, Spooled, find_abandoned

LARGE = 10 * 1024 * 1024


def event(seq: int, *, is_allow: bool = True, size: int = 20) -> Spooled:
    return Spooled(seq, f"user=u{seq}".encode(), b"x" * size, is_allow)


def opened(folder: Path, capacity_bytes: int = LARGE) -> Spool:
    spool = Spool(folder, capacity_bytes)
    spool.open()
    return spool


def drain(spool: Spool) -> list[Spooled]:
    events = []
    while not spool.is_empty:
        segment = spool.oldest
        events += spool.read(segment)
        spool.discard(segment)
    return events


@given(st.lists(st.lists(st.binary(max_size=30), min_size=1, max_size=5), max_size=5))
@settings(max_examples=20)
def test_what_goes_in_comes_out_in_order(tmp_path_factory: pytest.TempPathFactory, values: list[list[bytes]]) -> None:
    spool = opened(tmp_path_factory.mktemp("spool") / "a")
    seq, kept = 0, []
    for batch in values:
        events = [Spooled(seq := seq + 1, value[:5], value, is_allow=len(value) % 2 == 0) for value in batch]
        assert spool.append(events) == []
        kept += events
    assert drain(spool) == kept
    assert spool.size_bytes == 0


def test_the_next_process_finds_what_was_left(tmp_path: Path) -> None:
    spool = opened(tmp_path / "boot1")
    spool.append([event(1), event(2)])
    spool.close()
    (found,) = find_abandoned(tmp_path, LARGE)
    assert [e.seq for e in drain(found)] == [1, 2]
    found.close()
    assert not (tmp_path / "boot1").exists()


def test_the_spool_of_a_live_process_is_left_alone(tmp_path: Path) -> None:
    code = (
        "import sys,time,pathlib;from enforcer.events.spool import Spool\n"
        f"s=Spool(pathlib.Path({str(tmp_path / 'boot1')!r}),1000);s.open();print('held',flush=True);sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert list(find_abandoned(tmp_path, LARGE)) == []
        holder.kill()
    assert len(list(find_abandoned(tmp_path, LARGE))) == 1


def test_a_spool_with_nothing_in_it_leaves_no_folder(tmp_path: Path) -> None:
    opened(tmp_path / "boot1").close()
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_allows_make_room_first(tmp_path: Path) -> None:
    spool = opened(tmp_path / "a", capacity_bytes=3000)
    lost: list[int] = []
    for start in range(1, 101, 10):
        lost += spool.append([event(seq, is_allow=seq % 2 == 0, size=40) for seq in range(start, start + 10)])
    kept = [e.seq for e in drain(spool)]
    assert sorted(lost + kept) == list(range(1, 101))
    assert lost
    assert all(seq % 2 == 0 for seq in lost[: len(lost) // 4])
    assert max(lost) < min(seq for seq in kept if seq % 2 == 0)


def test_the_bound_holds_up_to_one_segment(tmp_path: Path) -> None:
    spool = opened(tmp_path / "a", capacity_bytes=2000)
    for seq in range(1, 50):
        spool.append([event(seq, is_allow=False, size=500)])
        assert spool.size_bytes <= 2000 + 600


def test_a_flipped_bit_is_found_and_what_it_cost_is_named(tmp_path: Path) -> None:
    spool = opened(tmp_path / "a")
    spool.append([event(seq, size=100) for seq in range(1, 11)])
    path = spool.oldest
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(SpoolCorrupt) as raised:
        spool.read(path)
    read = [e.seq for e in raised.value.readable]
    assert read == list(range(1, len(read) + 1))
    assert raised.value.lost == list(range(len(read) + 1, 11))


@pytest.mark.parametrize("keep", [0, 5, 11, 60])
def test_a_cut_segment_loses_only_what_was_cut(tmp_path: Path, keep: int) -> None:
    spool = opened(tmp_path / "a")
    spool.append([event(seq) for seq in range(1, 6)])
    path = spool.oldest
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SpoolCorrupt) as raised:
        spool.read(path)
    assert sorted([e.seq for e in raised.value.readable] + raised.value.lost) == [1, 2, 3, 4, 5]


def test_a_failing_disk_keeps_nothing_and_says_so(tmp_path: Path) -> None:
    spool = opened(tmp_path / "a")
    spool.folder = tmp_path / "gone"
    with pytest.raises(OSError, match="gone"):
        spool.append([event(1)])
    assert spool.is_empty


def test_a_segment_that_made_room_while_it_was_sent_is_discarded_once(tmp_path: Path) -> None:
    spool = opened(tmp_path / "a", capacity_bytes=300)
    spool.append([event(1, is_allow=False, size=200)])
    segment = spool.oldest
    spool.append([event(2, is_allow=False, size=200)])
    spool.discard(segment)
    assert [e.seq for e in drain(spool)] == [2]
