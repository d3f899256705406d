from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.document import read_document
from detector.ladder import judge
from detector.rules import Rules
from detector.shard import Changes, Row, Shard, Weighing
from detector.verdict import make_offence
from detector.watches import compile_watches
from topics.wire import ClosedEvent, DenialRecord, Fold, FoldsEvent, HeartbeatEvent, OutcomeEvent

SHIPPED = read_document(Path("config/rules.yaml"), Rules).model
RULES = SHIPPED.model_copy(update={"rules": (SHIPPED.find("brute_force"),)})
T0 = 1_800_000_000_000


def make_shard(rows: dict[str, bytes] | None = None, progress: bytes | None = None, *, most: int = 1000) -> Shard:
    return Shard(0, RULES, rows or {}, progress, most=most)


def make_record(
    n: int, *subjects: str, count: int = 1, at_ms: int = T0, source: str = "s", action: str = "login"
) -> FoldsEvent:
    folds = [
        Fold(subject=subject, action=action, policy="login", limit="per_user", count=count, first_ms=at_ms, last_ms=at_ms)
        for subject in subjects
    ]
    return FoldsEvent(source=source, n=n, at_ms=at_ms, folds=folds)


def weigh(shard: Shard, offset: int, record: DenialRecord, taken_ms: int = T0) -> Weighing:
    return shard.weigh(offset, record, taken_ms=taken_ms)


def take(shard: Shard, offset: int, record: DenialRecord, taken_ms: int = T0) -> Weighing:
    weighing = weigh(shard, offset, record, taken_ms)
    shard.accept(weighing)
    return weighing


def write(rows: dict[str, bytes], changes: Changes, most: int | None = None) -> None:
    """Write down rows, or the first of them only, as a crash leaves them."""
    for key, row in list(changes.rows.items())[:most]:
        if row is None:
            rows.pop(key, None)
        else:
            rows[key] = row


def test_weighing_changes_nothing() -> None:
    shard = make_shard()
    assert weigh(shard, 0, make_record(1, "user=a", count=9)) == weigh(shard, 0, make_record(1, "user=a", count=9))
    assert (len(shard), shard.offset, shard.drain().rows) == (0, -1, {})


def test_crossing_names_its_record_and_its_fold() -> None:
    weighing = take(make_shard(), 5, make_record(1, "user=a", "user=b", count=9))
    assert weighing.crossings == ()
    shard = make_shard()
    take(shard, 0, make_record(1, "user=b", count=9))
    weighing = take(shard, 4, make_record(2, "user=a", "user=b"))
    [crossing] = weighing.crossings
    assert (crossing.subject, crossing.fold) == ("user=b", 1)
    assert weighing.origin
    assert (weighing.origin.offset, weighing.origin.n, weighing.origin.source) == (4, 2, "s")


def test_folds_that_no_rule_counts_are_not_remembered() -> None:
    shard = make_shard()
    take(shard, 0, make_record(1, "ip=203.0.113.7"))
    take(shard, 1, make_record(2, "user=a", action="search"))
    assert len(shard) == 0


def test_record_that_is_read_again_changes_nothing() -> None:
    shard = make_shard()
    take(shard, 0, make_record(1, "user=a", count=9))
    assert take(shard, 0, make_record(1, "user=a", count=9)).kind == "reread"
    assert take(shard, 1, make_record(2, "user=a")).crossings


def test_record_that_was_written_twice_changes_nothing() -> None:
    shard = make_shard()
    take(shard, 0, make_record(1, "user=a", count=9))
    weighing = take(shard, 1, make_record(1, "user=a", count=9))
    assert (weighing.kind, weighing.crossings, shard.offset) == ("doubled", (), 1)
    assert take(shard, 2, make_record(1, "user=a", count=1, source="other")).crossings


def test_missing_records_are_counted_once_by_records_and_by_heartbeats() -> None:
    shard = make_shard()
    assert take(shard, 0, make_record(3, "user=a")).missing == 0  # what was before the first sight is unknown
    assert take(shard, 1, make_record(6, "user=a")).missing == 2
    assert take(shard, 2, HeartbeatEvent(source="s", seq=7, at_ms=T0)).missing == 1
    assert take(shard, 3, HeartbeatEvent(source="s", seq=7, at_ms=T0)).missing == 0
    assert take(shard, 4, ClosedEvent(source="s", seq=9, at_ms=T0)).missing == 2


def test_denials_dated_ahead_of_the_broker_count_as_of_its_time_and_make_nothing_late() -> None:
    shard = make_shard()
    weighing = take(shard, 0, make_record(1, "user=a", count=9, at_ms=T0 + 3_600_000), T0)
    assert (weighing.ahead, weighing.denials) == (9, {"brute_force": 9})
    weighing = take(shard, 1, make_record(2, "user=a", at_ms=T0 + 100), T0 + 100)
    assert (weighing.ahead, weighing.late, weighing.crossings[0].last_ms) == (0, {}, T0 + 100)


@pytest.mark.parametrize(("ahead_ms", "counted_at_ms"), [(5_000, T0 + 5_000), (5_001, T0)])
def test_five_seconds_ahead_of_the_broker_are_still_believed(ahead_ms: int, counted_at_ms: int) -> None:
    weighing = take(make_shard(), 0, make_record(1, "user=a", count=10, at_ms=T0 + ahead_ms), T0)
    assert weighing.crossings[0].last_ms == counted_at_ms


def test_record_of_another_topic_is_refused() -> None:
    with pytest.raises(TypeError, match="no record of topic denials"):
        weigh(make_shard(), 0, OutcomeEvent(source="s", n=1, action="a", second_ms=0, count=1))  # type: ignore[arg-type]


def test_drain_gives_each_change_once() -> None:
    shard = make_shard()
    take(shard, 0, make_record(1, "user=a"))
    changes = shard.drain()
    assert (list(changes.rows), changes.progress is not None, changes.offset) == (["user=a"], True, 0)
    take(shard, 1, HeartbeatEvent(source="s", seq=1, at_ms=T0))
    assert shard.drain() == Changes({}, None, 1)


def test_subject_is_forgotten_two_windows_after_its_last_denial_came() -> None:
    shard = make_shard()
    take(shard, 0, make_record(1, "user=a", at_ms=T0 - 500_000))  # from a spool: old, but just come
    rows: dict[str, bytes] = {}
    for offset, later_ms in ((1, 0), (2, 119_999), (3, 120_000)):
        take(shard, offset, HeartbeatEvent(source="s", seq=1, at_ms=T0), T0 + later_ms)
        for _ in range(3):
            write(rows, shard.drain())
        assert len(rows) == len(shard) == (1 if later_ms < 120_000 else 0)


def test_memory_is_bounded_and_the_fewest_denials_go_first() -> None:
    shard = make_shard(most=20)
    take(shard, 0, make_record(1, "user=abuser", count=9))
    for number in range(200):
        take(shard, 1 + number, make_record(2 + number, f"user=u{number}"))
        assert len(shard) <= 20
    assert shard.evicted >= 180
    assert take(shard, 300, make_record(300, "user=abuser")).crossings


def test_eviction_takes_a_tenth_and_no_more_before_the_next_drain() -> None:
    shard = make_shard(most=100)
    for number in range(109):
        take(shard, number, make_record(1 + number, f"user=u{number}"))
    assert shard.evicted == 10
    assert len(shard) == 99


@given(st.lists(st.sampled_from(["a", "b", "c", "late", "drain", "forget"]), max_size=40))
def test_length_is_the_number_of_subjects_that_are_remembered(steps: list[str]) -> None:
    rows: dict[str, bytes] = {}
    shard = make_shard(most=10)
    for number, step in enumerate(steps):
        if step == "drain":
            write(rows, shard.drain())
            assert len(shard) == len(rows)
        elif step == "forget":
            shard.forget()
            assert len(shard) == 0
        else:
            at_ms = T0 + 10_000_000 * (step == "late")
            take(shard, shard.offset + 1, make_record(1 + number, f"user={step}", at_ms=at_ms), at_ms)
    write(rows, shard.drain())
    assert len(shard) == len(rows)


def test_sources_are_bounded() -> None:
    shard = make_shard()
    for number in range(1_500):
        take(shard, number, make_record(1, "user=a", source=f"s{number}"))
    progress = shard.drain().progress
    assert progress is not None
    assert len(make_shard({}, progress)._marks) == 1_000


def test_row_of_an_active_subject_stays_below_300_bytes_for_each_rule_that_counts_it() -> None:
    """The worst row: every bucket in use, one short of each threshold, every user and action another one."""
    for rule in RULES.rules:
        subject = f"{rule.by}=somebody.with.a.long.name@example.com"
        shard = make_shard()
        watches = [watch for watch in compile_watches(RULES) if watch.rule is rule]
        steps = min(12, rule.threshold - 1)
        at_ms = T0 // watches[0].width_ms * watches[0].width_ms
        for step in range(steps):
            share = (rule.threshold - 1) * (step + 1) // steps - (rule.threshold - 1) * step // steps
            members = tuple(random.Random(f"{step}.{number}").getrandbits(48) for number in range(share))
            fold = Fold(
                subject=subject,
                action=rule.match.action[0].replace("*", "x"),
                policy=rule.match.policy[0].replace("*", "x"),
                limit=rule.match.limit[0].replace("*", "x"),
                count=share,
                admitted=0,
                first_ms=at_ms,
                last_ms=at_ms,
                users=members,
                actions=members,
                attributes={name: globs[0].replace("*", "x") for name, globs in rule.match.attributes.items()},
            )
            weighing = take(shard, step, FoldsEvent(source="s", n=step + 1, at_ms=at_ms, folds=[fold]), at_ms)
            assert not any(crossing.watch.rule is rule for crossing in weighing.crossings)
            at_ms += watches[0].width_ms
        [row] = [row for row in shard.drain().rows.values() if row]
        windows = msgspec.msgpack.decode(row, type=Row).windows
        assert {watch.key for watch in watches} <= windows.keys()
        assert len(row) / len(windows) < 300, rule.name


def test_topic_that_was_made_anew_is_counted_from_its_start() -> None:
    shard = make_shard()
    take(shard, 7, make_record(5, "user=a", count=9))
    rows: dict[str, bytes] = {}
    write(rows, shard.drain())
    shard.forget()
    take(shard, 0, make_record(1, "user=b", count=9))
    write(rows, shard.drain())
    assert list(rows) == ["user=b"]


histories = st.lists(
    st.tuples(
        st.sampled_from(["user=a", "user=b", "user=c"]),
        st.integers(1, 7),
        st.integers(0, 15_000),
        st.sampled_from(["s", "t"]),
        st.booleans(),  # written a second time
        st.sampled_from(["go on", "go on", "flush", "crash in the middle of a flush", "crash"]),
        st.integers(0, 3),  # rows that reach the changelog before the crash
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=300)
@given(history=histories)
def test_crashes_anywhere_neither_lose_nor_double_an_offence(history: list[tuple[str, int, int, str, bool, str, int]]) -> None:
    log: list[DenialRecord] = []
    numbers: dict[str, int] = {}
    at_ms = T0
    for subject, count, later_ms, source, is_doubled, _, _ in history:
        at_ms += later_ms
        numbers[source] = numbers.get(source, 0) + 1
        log += [make_record(numbers[source], subject, count=count, at_ms=at_ms, source=source)] * (1 + is_doubled)

    def offend(shard: Shard, offset: int) -> list[str]:
        weighing = take(shard, offset, log[offset])
        return [make_offence(crossing, weighing.origin, RULES).verdict_id for crossing in weighing.crossings if weighing.origin]

    undisturbed = make_shard()
    expected = [verdict for offset in range(len(log)) for verdict in offend(undisturbed, offset)]

    rows: dict[str, bytes] = {}
    progress: bytes | None = None
    committed, offset = 0, 0
    shard = make_shard()
    found: list[str] = []
    plans = [(plan, written) for *_, plan, written in history]
    while offset < len(log):
        found += offend(shard, offset)
        offset += 1
        plan, written = plans.pop() if plans else ("go on", 0)
        if plan == "go on":
            continue
        if plan != "crash":
            changes = shard.drain()
            is_cut = plan != "flush"
            write(rows, changes, written if is_cut else None)
            if not is_cut or written >= len(changes.rows):
                progress = changes.progress or progress
            committed = committed if is_cut else changes.offset + 1
        if plan != "flush":
            shard, offset = make_shard(dict(rows), progress), committed
    assert list(dict.fromkeys(found)) == expected


ONE_OFFENCE = Rules.model_validate(
    {
        "version": 1,
        "ladder": {"half_life": "1h", "rungs": [{"name": "ban_10m", "penalty": "ban", "duration": "10m"}]},
        "rules": [
            {
                "name": "brute_force",
                "counts": "denials",
                "by": "user",
                "match": {"action": "login"},
                "threshold": 10,
                "window": "60s",
                "start": "ban_10m",
            }
        ],
    }
)


@settings(max_examples=300)
@given(
    denials=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 54_000), st.integers(1, 12)), min_size=1, max_size=30),
    arrival=st.randoms(use_true_random=False),
)
def test_sources_that_arrive_in_another_order_make_no_second_strike_of_one_offence(
    denials: list[tuple[int, int, int]], arrival: random.Random
) -> None:
    """Each source's own records stay in order; what lies between sources is shuffled within the window."""
    waiting: dict[int, list[tuple[int, int]]] = {}
    for source, later_ms, count in sorted(denials, key=lambda denial: denial[1]):
        waiting.setdefault(source, []).append((later_ms, count))
    shard, state, strikes = Shard(0, ONE_OFFENCE, {}, None), None, 0
    numbers: dict[int, int] = {}
    offset = 0
    while waiting:
        source = arrival.choice(sorted(waiting))
        later_ms, count = waiting[source].pop(0)
        if not waiting[source]:
            del waiting[source]
        numbers[source] = numbers.get(source, 0) + 1
        record = make_record(numbers[source], "user=a", count=count, at_ms=T0 + later_ms, source=str(source))
        weighing = take(shard, offset, record, T0 + 60_000)
        offset += 1
        assert weighing.late == {}
        for crossing in weighing.crossings:
            assert weighing.origin
            offence = make_offence(crossing, weighing.origin, ONE_OFFENCE)
            judgement = judge(state, offence, ONE_OFFENCE.ladder, now_ms=T0 + 60_000, keep_ms=3_600_000)
            state, strikes = judgement.state, strikes + (judgement.finding.result == "applied")
    assert strikes == (sum(count for _, _, count in denials) >= 10)


def change_rule(**changes: object) -> Rules:
    return RULES.model_copy(update={"rules": (RULES.rules[0].model_copy(update=changes),)})


def test_windows_go_on_under_other_thresholds() -> None:
    shard = make_shard()
    take(shard, 0, make_record(1, "user=a", count=8))
    shard.swap(change_rule(threshold=9))
    [crossing] = take(shard, 1, make_record(2, "user=a")).crossings
    assert (crossing.count, crossing.watch.threshold) == (9, 9)


def test_windows_of_a_rule_that_counts_otherwise_start_empty_and_the_old_ones_go() -> None:
    shard = make_shard()
    take(shard, 0, make_record(1, "user=a", count=9))
    shard.swap(change_rule(window=120_000))
    assert take(shard, 1, make_record(2, "user=a")).crossings == ()
    [row] = [row for row in shard.drain().rows.values() if row]
    assert len(msgspec.msgpack.decode(row, type=Row).windows) == 1


def test_rule_that_is_new_counts_from_the_next_record_on() -> None:
    shard = make_shard()
    take(shard, 0, make_record(1, "user=a", action="search"))
    shard.swap(SHIPPED)
    assert take(shard, 1, make_record(2, "user=a", action="search")).denials == {"scraping": 1, "retry_storm": 1}
    assert shard.list_subjects() == {"user=a"}
