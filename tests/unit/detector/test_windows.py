from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from detector.rules import Rules
from detector.watches import Watch, compile_watches, measure_width_ms
from detector.windows import Crossing, Window, advance, count_denials
from topics.wire import Fold

WINDOW_MS = 60_000
WIDTH_MS = 5_000


def make_watch(**fields: object) -> Watch:
    """One threshold of 10 denials within a minute, but for what is given."""
    rule = {"name": "it", "by": "user", "match": {"action": "login"}, "threshold": 10, "window": "60s", "start": "ban"} | fields
    ladder = {"half_life": "1h", "rungs": [{"name": "ban", "penalty": "ban", "duration": "1m"}]}
    return compile_watches(Rules.model_validate({"version": 1, "ladder": ladder, "rules": [rule]}))[0]


WATCH = make_watch()
T0 = 1_800_000_003_000


def make_fold(
    at_ms: int,
    count: int = 1,
    *,
    first_ms: int | None = None,
    admitted: int = 0,
    users: tuple[int, ...] = (),
    actions: tuple[int, ...] = (),
) -> Fold:
    first_ms = at_ms if first_ms is None else first_ms
    return Fold("user=m", "login", "p", "l", count, first_ms, at_ms, admitted, users, actions)


def run(*folds: Fold, watch: Watch = WATCH) -> tuple[Window, list[Crossing], int]:
    window, crossings, late = Window(), [], 0
    for fold in folds:
        step = advance(window, fold, watch)
        window = step.window
        crossings += [step.crossing] if step.crossing else []
        late += step.is_late
    return window, crossings, late


def test_threshold_denials_within_the_window_cross() -> None:
    times = [T0 + number * 6_000 for number in range(10)]
    _, [crossing], _ = run(*map(make_fold, times))
    assert (crossing.count, crossing.first_ms, crossing.last_ms) == (10, times[0], times[-1])
    assert (crossing.watch, crossing.subject) == (WATCH, "user=m")


def test_one_denial_below_the_threshold_does_not_cross() -> None:
    assert run(*(make_fold(T0 + number) for number in range(9)))[1] == []


def test_last_millisecond_of_the_window_counts_and_the_next_does_not() -> None:
    nine = [make_fold(T0, 9)]
    assert len(run(*nine, make_fold(T0 + WINDOW_MS - 1))[1]) == 1
    assert run(*nine, make_fold(T0 + WINDOW_MS))[1] == []


def test_crossing_empties_the_window_and_the_rest_of_the_fold_counts_on() -> None:
    window, [crossing], _ = run(make_fold(T0, 8), make_fold(T0 + 10, 5))
    assert crossing.count == 13
    assert count_denials(window) == 3
    assert run(make_fold(T0, 8), make_fold(T0 + 10, 5), make_fold(T0 + 20, 6))[1] == [crossing]
    assert len(run(make_fold(T0, 8), make_fold(T0 + 10, 5), make_fold(T0 + 20, 7))[1]) == 2


def test_one_fold_is_one_offence_however_much_it_holds() -> None:
    window, crossings, _ = run(make_fold(T0, 1_000_007))
    assert len(crossings) == 1
    assert count_denials(window) == 7


def test_out_of_order_fold_inside_the_window_counts() -> None:
    _, [crossing], _ = run(make_fold(T0 + 30_000, 5), make_fold(T0, 5))
    assert (crossing.first_ms, crossing.last_ms) == (T0, T0 + 30_000)


def test_fold_older_than_the_subject_s_own_window_is_late_and_changes_nothing() -> None:
    window, crossings, late = run(make_fold(T0 + WINDOW_MS, 9), make_fold(T0, 100))
    assert (crossings, late) == ([], 1)
    assert window == run(make_fold(T0 + WINDOW_MS, 9))[0]


def test_fold_that_began_before_the_window_is_late() -> None:
    assert run(make_fold(T0, 9), make_fold(T0 + 5, 1, first_ms=T0 - WINDOW_MS))[2] == 1


def test_success_in_between_does_not_reset_the_count() -> None:
    _, crossings, _ = run(*(make_fold(T0 + number * 100, admitted=1) for number in range(10)))
    assert len(crossings) == 1


def test_rule_whose_window_changed_starts_with_an_empty_one() -> None:
    window, _, _ = run(make_fold(T0, 9))
    longer = make_watch(window="2m")
    assert count_denials(advance(window, make_fold(T0 + 1), longer).window) == 1


def test_buckets_are_a_twelfth_of_the_window_and_no_finer_than_100_ms() -> None:
    assert [measure_width_ms(window_ms) for window_ms in (60_000, 1_000, 1_201, 3_600_000)] == [5_000, 100, 101, 300_000]


folds = st.lists(
    st.builds(
        make_fold,
        st.integers(T0, T0 + 200_000),
        st.integers(1, 12),
    ),
    max_size=60,
)


@given(folds=folds)
def test_no_crossing_counts_a_denial_outside_the_window_or_below_the_threshold(folds: list[Fold]) -> None:
    window = Window()
    seen: list[Fold] = []
    for fold in folds:
        seen.append(fold)
        step = advance(window, fold, WATCH)
        window = step.window
        assert len(window.buckets) <= 13
        assert sum(bucket.count for bucket in window.buckets) < WATCH.threshold
        if step.crossing:
            assert step.crossing.first_ms > step.crossing.last_ms - WINDOW_MS
            inside = sum(one.count for one in seen if one.last_ms > step.crossing.last_ms - WINDOW_MS)
            assert WATCH.threshold <= step.crossing.count <= inside


@given(start=st.integers(T0, T0 + 10_000), gaps=st.lists(st.integers(0, 20_000), min_size=30, max_size=60))
def test_threshold_denials_within_eleven_twelfths_of_the_window_are_always_found(start: int, gaps: list[int]) -> None:
    """The documented bound: what an exact sliding window over 55 s finds, the buckets find no later."""
    times, at_ms = [], start
    for gap in gaps:
        at_ms += gap
        times.append(at_ms)
    window = Window()
    held: list[int] = []
    for at_ms in times:
        held = [one for one in held if one > at_ms - (WINDOW_MS - WIDTH_MS)] + [at_ms]
        step = advance(window, make_fold(at_ms), WATCH)
        window = step.window
        if step.crossing:
            held = []
        assert len(held) < WATCH.threshold


def test_distinct_users_are_counted_once_however_often_they_come() -> None:
    stuffer = make_watch(counts="users", by="ip", threshold=3)
    folds = [make_fold(T0 + number, 5, users=(number % 2,)) for number in range(10)]
    assert run(*folds, watch=stuffer)[1] == []
    _, [crossing], _ = run(*folds, make_fold(T0 + 20, users=(7,)), watch=stuffer)
    assert (crossing.count, crossing.denials) == (3, 51)


def test_distinct_users_leave_with_the_bucket_that_saw_them_last() -> None:
    stuffer = make_watch(counts="users", by="ip", threshold=3)
    seen_again = [make_fold(T0, users=(1, 2)), make_fold(T0 + 50_000, users=(1,)), make_fold(T0 + WINDOW_MS + 1, users=(3,))]
    assert run(*seen_again, watch=stuffer)[1] == []
    assert len(run(*seen_again, make_fold(T0 + WINDOW_MS + 2, users=(4,)), watch=stuffer)[1]) == 1


def test_a_fold_of_one_action_counts_that_action() -> None:
    scraper = make_watch(counts="actions", threshold=2, match={"action": "*"})
    other = Fold("user=m", "search", "p", "l", 1, T0 + 1, T0 + 1)
    assert run(make_fold(T0, 50), make_fold(T0 + 1, 50), watch=scraper)[1] == []
    assert len(run(make_fold(T0), other, watch=scraper)[1]) == 1


def test_gate_holds_while_a_greater_share_passes_and_opens_when_it_does_not() -> None:
    gated = make_watch(most_admitted=0.5)
    office = [make_fold(T0, 12, admitted=13)]
    assert run(*office, watch=gated)[1] == []
    _, [crossing], _ = run(*office, make_fold(T0 + 1, 1), watch=gated)
    assert (crossing.count, crossing.admitted) == (13, 13)


def test_gate_counts_what_passed_within_the_window_alone() -> None:
    gated = make_watch(most_admitted=0.5)
    assert len(run(make_fold(T0, 1, admitted=1000), make_fold(T0 + WINDOW_MS, 10), watch=gated)[1]) == 1


def test_nothing_counts_while_a_rule_cools_down() -> None:
    cooling = make_watch(cool_down="5m")
    window, crossings, _ = run(make_fold(T0, 25), make_fold(T0 + 299_999, 50), watch=cooling)
    assert len(crossings) == 1
    assert count_denials(window) == 0
    assert len(run(make_fold(T0, 25), make_fold(T0 + 300_000, 10), watch=cooling)[1]) == 2


@given(
    seen=st.lists(st.tuples(st.integers(T0, T0 + 150_000), st.lists(st.integers(0, 60), min_size=1, max_size=5)), max_size=60),
    most_admitted=st.sampled_from([None, 0.0]),
)
def test_distinct_members_are_bounded_and_never_more_than_there_were(
    seen: list[tuple[int, list[int]]], most_admitted: float | None
) -> None:
    watch = make_watch(counts="users", by="ip", threshold=20, most_admitted=most_admitted)
    window, told = Window(), []
    for at_ms, users in seen:
        told.append((at_ms, users))
        step = advance(window, make_fold(at_ms, users=tuple(users), admitted=1), watch)
        window = step.window
        members = [member for bucket in window.buckets for member in bucket.members]
        assert len(members) == len(set(members)) <= watch.threshold
        if step.crossing:
            inside = {user for one_ms, mine in told if one_ms > step.crossing.last_ms - WINDOW_MS for user in mine}
            assert watch.threshold <= step.crossing.count <= len(inside)


@given(st.lists(st.tuples(st.integers(0, 59_000), st.integers(1, 2**48)), min_size=100, max_size=140))
def test_one_window_of_one_subject_takes_at_most_300_bytes(seen: list[tuple[int, int]]) -> None:
    watch = make_watch(counts="users", by="ip", threshold=40, most_admitted=0.0)
    window = Window()
    for at_ms, user in sorted(seen):
        window = advance(window, make_fold(T0 + at_ms, users=(user,), admitted=5), watch).window
        assert len(msgspec.msgpack.encode(window)) <= 300
