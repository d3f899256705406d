from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detector.rules import Match, Rule
from detector.windows import Crossing, Window, advance, count_denials, measure_width_ms
from topics.events import Fold

WINDOW_MS = 60_000
WIDTH_MS = 5_000
RULE = Rule(name="brute_force", by="user", match=Match(action=("login",)), threshold=10, window="60s", start="ban_1m")
T0 = 1_800_000_003_000


def make_fold(at_ms: int, count: int = 1, *, first_ms: int | None = None) -> Fold:
    first_ms = at_ms if first_ms is None else first_ms
    return Fold(subject="user=m", action="login", policy="p", limit="l", count=count, first_ms=first_ms, last_ms=at_ms)


def run(*folds: Fold, rule: Rule = RULE) -> tuple[Window, list[Crossing], int]:
    window, crossings, late = Window(), [], 0
    for fold in folds:
        step = advance(window, fold, rule)
        window = step.window
        crossings += [step.crossing] if step.crossing else []
        late += step.is_late
    return window, crossings, late


def test_threshold_denials_within_the_window_cross() -> None:
    times = [T0 + number * 6_000 for number in range(10)]
    _, [crossing], _ = run(*map(make_fold, times))
    assert (crossing.count, crossing.first_ms, crossing.last_ms) == (10, times[0], times[-1])
    assert (crossing.rule, crossing.subject) == ("brute_force", "user=m")


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
    _, crossings, _ = run(*(make_fold(T0 + number * 100).model_copy(update={"admitted": 1}) for number in range(10)))
    assert len(crossings) == 1


def test_rule_whose_window_changed_starts_with_an_empty_one() -> None:
    window, _, _ = run(make_fold(T0, 9))
    longer = RULE.model_copy(update={"window": 120_000})
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
        step = advance(window, fold, RULE)
        window = step.window
        assert len(window.buckets) <= 13
        assert sum(bucket.count for bucket in window.buckets) < RULE.threshold
        if step.crossing:
            assert step.crossing.first_ms > step.crossing.last_ms - WINDOW_MS
            inside = sum(one.count for one in seen if one.last_ms > step.crossing.last_ms - WINDOW_MS)
            assert RULE.threshold <= step.crossing.count <= inside


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
        step = advance(window, make_fold(at_ms), RULE)
        window = step.window
        if step.crossing:
            held = []
        assert len(held) < RULE.threshold
