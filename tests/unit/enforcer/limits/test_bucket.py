"""The bucket's rules, first as tables of steps, then as properties over random schedules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.limits.bucket import (
    LARGEST_EXACT,
    UNLOWERED,
    Bucket,
    Generation,
    Status,
    Taken,
    Terms,
    TermsOutOfRange,
    measure_wait_us,
    refill,
    rescale,
    take,
)

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
START_US = 1_700_000_000_000_000
FIVE_A_MINUTE = Terms.of(5, 5, MINUTE_US)

any_terms = st.builds(Terms.of, st.integers(1, 50), st.integers(1, 50), st.sampled_from([1, 7, 1000, SECOND_US, MINUTE_US]))


def step(bucket: Bucket | None, now_us: int, *, cost: int = 1, factor: int = UNLOWERED) -> tuple[Bucket | None, Taken]:
    stored, taken = take([bucket], [FIVE_A_MINUTE], [False], [cost], factor, now_us)
    return stored[0], taken


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([(0, 1)] * 6, [4, 3, 2, 1, 0, None], id="a burst empties it"),
        pytest.param([(0, 5), (12, 1), (12, 1)], [0, 0, 0], id="one token every twelve seconds"),
        pytest.param([(0, 5), (11.999999, 1)], [0, None], id="a microsecond too early"),
        pytest.param([(0, 5), (11.999999, 1), (0.000001, 1)], [0, None, 0], id="a refusal loses no time"),
        pytest.param([(0, 5), (3600, 0)], [0, 5], id="never above the capacity"),
        pytest.param([(0, 0), (0, 5)], [5, 0], id="cost 0 reads"),
        pytest.param([(0, 5), (0, -2), (0, 3), (0, 2)], [0, 2, None, 0], id="a refund gives back"),
        pytest.param([(0, 2), (0, -9), (0, 5)], [3, 5, 0], id="a refund fills up to the capacity"),
        pytest.param([(0, 5), (-9, -1), (9, 1), (12, 1)], [0, 1, 0, 0], id="a refund while the clock stands back"),
        pytest.param([(0, 4), (0, 2), (0, 1)], [1, None, 0], id="a cost above what is left leaves it"),
        pytest.param(
            [(0, 5), (-3600, 1), (3600, 1), (12, 1)], [0, None, None, 0], id="a step back freezes until it is made up"
        ),
        pytest.param([(0, 5), (6, 1), (-3, 1), (9, 1)], [0, None, None, 0], id="a refusal does not move the time"),
    ],
)
def test_steps_leave_what_the_table_says(steps: list[tuple[float, int]], expected: list[int | None]) -> None:
    bucket, now_us = None, START_US
    for (later_s, cost), remaining in zip(steps, expected, strict=True):
        now_us += round(later_s * SECOND_US)
        bucket, taken = step(bucket, now_us, cost=cost)
        assert (taken.status == Status.ALLOW) == (remaining is not None)
        if remaining is not None:
            assert taken.levels[0] // FIVE_A_MINUTE.period_ticks == remaining


@given(
    terms=any_terms,
    schedule=st.lists(st.tuples(st.integers(0, 100_000_000), st.integers(1, 10)), max_size=60),
)
def test_admitted_is_at_most_capacity_and_refill(terms: Terms, schedule: list[tuple[int, int]]) -> None:
    buckets: list[Bucket | None] = [None]
    now_us, admitted = START_US, 0
    for later_us, cost in schedule:
        now_us += later_us
        buckets, taken = take(buckets, [terms], [False], [cost], UNLOWERED, now_us)
        admitted += cost if taken.status == Status.ALLOW else 0
    # A tick that had begun before the first take is credited whole.
    ticks = now_us // terms.tick_us - START_US // terms.tick_us
    assert admitted * terms.period_ticks <= terms.capacity_units + ticks * terms.refill


@given(
    terms=any_terms,
    schedule=st.lists(
        st.tuples(st.integers(-5_000_000, 100_000_000), st.integers(1, 10), st.integers(1, UNLOWERED)), min_size=1, max_size=40
    ),
)
def test_lowered_limit_never_admits_more_than_the_limit(terms: Terms, schedule: list[tuple[int, int, int]]) -> None:
    buckets: list[Bucket | None] = [None]
    now_us, seen_us, admitted = START_US, [], 0
    for later_us, cost, factor in schedule:
        now_us += later_us
        seen_us.append(now_us)
        buckets, taken = take(buckets, [terms], [False], [min(cost, terms.capacity)], factor, now_us)
        admitted += min(cost, terms.capacity) if taken.status == Status.ALLOW else 0
    ticks = max(seen_us) // terms.tick_us - min(seen_us) // terms.tick_us
    assert admitted * terms.period_ticks <= terms.capacity_units + ticks * terms.refill


@given(
    terms=any_terms,
    schedule=st.lists(
        st.tuples(st.integers(0, 100_000_000), st.integers(-10, 10), st.sampled_from([UNLOWERED, 700, 1])), max_size=60
    ),
)
def test_admitted_net_of_refunds_is_at_most_capacity_and_refill(terms: Terms, schedule: list[tuple[int, int, int]]) -> None:
    buckets: list[Bucket | None] = [None]
    now_us, admitted = START_US, 0
    for later_us, cost, factor in schedule:
        now_us += later_us
        buckets, taken = take(buckets, [terms], [False], [cost], factor, now_us)
        assert taken.levels[0] <= terms.capacity_units
        assert cost > 0 or taken.status == Status.ALLOW
        admitted += cost if taken.status == Status.ALLOW else 0
        if taken.status == Status.ALLOW:
            ticks = now_us // terms.tick_us - START_US // terms.tick_us
            assert admitted * terms.period_ticks <= terms.capacity_units + ticks * terms.refill


def test_refund_is_bounded_by_the_capacity_at_the_factor_and_at_factor_1() -> None:
    bucket, _ = step(None, START_US, cost=5)
    bucket, taken = step(bucket, START_US, cost=-3, factor=400)
    assert bucket is not None
    assert taken.levels == (3 * FIVE_A_MINUTE.period_ticks,)
    bucket, taken = step(bucket, START_US, cost=-1, factor=400)
    assert bucket is not None
    assert (taken.levels[0], bucket.level_at_1) == (2 * FIVE_A_MINUTE.period_ticks, 4 * FIVE_A_MINUTE.period_ticks)
    assert step(bucket, START_US, cost=-9)[1].levels == (FIVE_A_MINUTE.capacity_units,)


def test_refund_stores_nothing_for_a_full_bucket() -> None:
    assert [step(None, START_US, cost=-1, factor=factor)[0] for factor in (UNLOWERED, 300)] == [None, None]


def test_limits_of_one_check_may_cost_different_amounts() -> None:
    wide, narrow = Terms.of(10, 1, SECOND_US), Terms.of(2, 1, SECOND_US)
    buckets, taken = take([None, None], [wide, narrow], [False, False], [7, 0], UNLOWERED, START_US)
    assert taken.levels == (3 * wide.period_ticks, 2 * narrow.period_ticks)
    assert buckets[1] is None
    after, taken = take(buckets, [wide, narrow], [False, False], [-5, 3], UNLOWERED, START_US)
    assert (taken.status, taken.refused, after) == (Status.LIMIT, 0b10, buckets)
    buckets, taken = take(buckets, [wide, narrow], [False, False], [-5, 2], UNLOWERED, START_US)
    assert (taken.status, taken.levels) == (Status.ALLOW, (8 * wide.period_ticks, 0))


@given(
    cost=st.integers(1, 9),
    levels=st.lists(st.integers(0, 9), min_size=2, max_size=4),
    now_us=st.integers(START_US, START_US + MINUTE_US),
)
def test_refused_check_changes_no_bucket(cost: int, levels: list[int], now_us: int) -> None:
    terms = Terms.of(9, 3, MINUTE_US)
    buckets: list[Bucket | None] = [
        Bucket(level * terms.period_ticks, START_US, terms.tag, expires_us=START_US + 10 * MINUTE_US) for level in levels
    ]
    stored, taken = take(buckets, [terms] * len(levels), [False] * len(levels), [cost] * len(levels), UNLOWERED, now_us)
    if taken.status == Status.ALLOW:
        assert all(after is not before for after, before in zip(stored, buckets, strict=True))
    else:
        assert stored == buckets


@given(terms=any_terms, cost=st.integers(1, 50), now_us=st.integers(START_US, START_US + 5_000), spent=st.integers(0, 50))
def test_waiting_out_retry_after_suffices_and_less_does_not(terms: Terms, cost: int, now_us: int, spent: int) -> None:
    cost, spent = min(cost, terms.capacity), min(spent, terms.capacity)
    buckets, _ = take([None], [terms], [False], [spent], UNLOWERED, now_us)
    _, refused = take(buckets, [terms], [False], [cost], UNLOWERED, now_us)
    wait_us = measure_wait_us(refused.levels[0], terms, UNLOWERED, cost * terms.period_ticks, now_us)
    if refused.status == Status.ALLOW:
        # The levels that came back are those after the take, so there is nothing to wait for what was paid.
        return
    assert wait_us > 0
    assert take(buckets, [terms], [False], [cost], UNLOWERED, now_us + wait_us)[1].status == Status.ALLOW
    assert take(buckets, [terms], [False], [cost], UNLOWERED, now_us + wait_us - 1)[1].status == Status.LIMIT


@given(
    terms=any_terms,
    cost=st.integers(1, 50),
    factor=st.integers(1, UNLOWERED - 1),
    now_us=st.integers(START_US, START_US + 5_000),
)
def test_waiting_out_retry_after_suffices_under_a_factor(terms: Terms, cost: int, factor: int, now_us: int) -> None:
    cost = min(cost, terms.capacity)
    buckets, _ = take([None], [terms], [False], [cost], factor, now_us)
    _, refused = take(buckets, [terms], [False], [cost], factor, now_us)
    if refused.status == Status.ALLOW:
        return
    wait_us = measure_wait_us(refused.levels[0], terms, factor, cost * terms.period_ticks, now_us)
    assert take(buckets, [terms], [False], [cost], factor, now_us + wait_us)[1].status == Status.ALLOW


def test_nothing_is_waited_for_when_the_level_suffices() -> None:
    assert measure_wait_us(10, FIVE_A_MINUTE, UNLOWERED, 10, START_US) == 0


def test_factor_lowers_capacity_and_rate() -> None:
    bucket, taken = step(None, START_US, cost=1, factor=400)
    assert taken.levels == (FIVE_A_MINUTE.period_ticks,)
    bucket, taken = step(bucket, START_US, cost=1, factor=400)
    assert taken.status == Status.ALLOW
    bucket, taken = step(bucket, START_US, cost=1, factor=400)
    assert taken.status == Status.THROTTLED
    assert step(bucket, START_US + 29_999_999, factor=400)[1].status == Status.THROTTLED
    assert step(bucket, START_US + 30_000_000, factor=400)[1].status == Status.ALLOW


def test_factor_never_lowers_the_capacity_below_the_cost() -> None:
    _, taken = step(None, START_US, cost=5, factor=1)
    assert taken.status == Status.ALLOW


def test_refusal_is_the_limits_own_when_it_would_have_come_without_the_factor() -> None:
    bucket, _ = step(None, START_US, cost=5)
    _, taken = step(bucket, START_US, factor=100)
    assert (taken.status, taken.refused, taken.refused_at_1) == (Status.LIMIT, 1, 1)


def test_throttled_refusals_spend_the_level_at_factor_1_until_the_limit_itself_refuses() -> None:
    bucket, statuses = None, []
    for _ in range(7):
        bucket, taken = step(bucket, START_US, factor=200)
        statuses.append(taken.status)
    assert statuses == [Status.ALLOW, *[Status.THROTTLED] * 4, Status.LIMIT, Status.LIMIT]


def test_what_a_factor_took_comes_back_when_it_ends() -> None:
    bucket, _ = step(None, START_US, factor=200)
    bucket, taken = step(bucket, START_US + 12 * SECOND_US)
    assert bucket is not None
    assert taken.status == Status.ALLOW
    assert (bucket.level, bucket.level_at_1) == (0, 4 * FIVE_A_MINUTE.period_ticks)
    bucket, _ = step(bucket, START_US + 600 * SECOND_US)
    assert bucket is not None
    assert bucket.level_at_1 is None


def test_thousandths_of_a_tick_add_up() -> None:
    terms = Terms.of(10, 1, 10)
    bucket = Bucket(0, START_US, terms.tag, expires_us=START_US + 10**9)
    for later in range(1, 4):
        bucket = replace(refill(bucket, terms, 333, 1, START_US + later), expires_us=START_US + 10**9)
    assert (bucket.level, bucket.remainder) == (0, 999)
    assert refill(bucket, terms, 333, 1, START_US + 4).level == 1


def hold(tokens: int, terms: Terms, at_us: int = START_US) -> Bucket:
    """A bucket with so many tokens."""
    return Bucket(tokens * terms.period_ticks, at_us // terms.tick_us, terms.tag, expires_us=at_us + 10**12)


def look(bucket: Bucket | None, terms: Terms, now_us: int, cost: int = 0) -> tuple[Bucket | None, int]:
    """The bucket after a check under these terms, and the tokens it tells of."""
    stored, taken = take([bucket], [terms], [False], [cost], UNLOWERED, now_us)
    return stored[0], taken.levels[0] // terms.period_ticks


OLD = Terms.of(10, 10, MINUTE_US).under(Generation(1, START_US - MINUTE_US))
CHANGE_US = START_US + 30 * SECOND_US


@pytest.mark.parametrize(
    ("capacity", "refill_tokens", "period_us", "later_s", "tokens"),
    [
        pytest.param(10, 10, MINUTE_US, 30, 5, id="the same terms again"),
        pytest.param(20, 10, MINUTE_US, 30, 10, id="twice the capacity"),
        pytest.param(5, 10, MINUTE_US, 30, 2, id="half the capacity, rounded down"),
        pytest.param(10, 10, SECOND_US, 30, 5, id="a faster refill counts from the change"),
        pytest.param(10, 1, SECOND_US, 33, 8, id="and then it counts"),
        pytest.param(10, 1, 3600 * SECOND_US, 90, 5, id="a slower refill too"),
        pytest.param(1_000_000, 1, 8640 * SECOND_US, 30, 500_000, id="other ticks"),
    ],
)
def test_bucket_keeps_its_fill_ratio_when_terms_change(
    capacity: int, refill_tokens: int, period_us: int, later_s: int, tokens: int
) -> None:
    new = Terms.of(capacity, refill_tokens, period_us).under(Generation(2, CHANGE_US))
    # Empty at the start, so half full at the change. A share is a millionth: what is rounded off comes back within a moment.
    _, told = look(hold(0, OLD), new, START_US + later_s * SECOND_US + 100)
    assert told == tokens


def test_refusal_brings_a_bucket_over_and_a_look_does_not() -> None:
    slow = Terms.of(10, 1, 86_400 * SECOND_US).under(Generation(1, 0))
    fast = Terms.of(10, 1, SECOND_US).under(Generation(2, START_US))
    empty = hold(0, slow)
    assert look(empty, fast, START_US)[0] is empty
    refused, _ = look(empty, fast, START_US, cost=1)
    assert refused is not None
    assert (refused.level, refused.tag) == (0, fast.tag)
    assert look(refused, fast, START_US + SECOND_US)[1] == 1


def test_raised_limit_counts_from_its_change_for_those_who_come_later() -> None:
    slow = Terms.of(10, 1, 86_400 * SECOND_US).under(Generation(1, 0))
    fast = Terms.of(10, 1, SECOND_US).under(Generation(2, START_US))
    assert look(hold(0, slow, START_US - MINUTE_US), fast, START_US + 3 * SECOND_US + 100)[1] == 3


def test_bucket_of_newer_terms_is_decided_by_them_and_not_rescaled() -> None:
    new = Terms.of(4, 4, MINUTE_US).under(Generation(2, START_US))
    stored, told = look(hold(4, new), OLD, START_US, cost=1)
    assert stored is not None
    assert (stored.tag, stored.level, told) == (new.tag, 3 * MINUTE_US, 3)
    _, taken = take([hold(4, new)], [OLD], [False], [5], UNLOWERED, START_US)
    assert (taken.status, taken.levels) == (Status.LIMIT, (4 * MINUTE_US,))


def test_newer_terms_are_told_in_the_units_of_the_caller_at_most_to_its_capacity() -> None:
    new = Terms.of(1_000_000, 1, 8640 * SECOND_US).under(Generation(2, START_US))
    assert look(hold(7, new), OLD, START_US)[1] == 7
    assert look(hold(500_000, new), OLD, START_US)[1] == OLD.capacity


def test_bucket_that_carries_no_terms_counts_as_new() -> None:
    bucket = replace(hold(0, OLD), tag="3fa9c1")
    assert look(bucket, FIVE_A_MINUTE, START_US)[1] == 5


generations = st.builds(Generation, st.integers(0, 5), st.integers(START_US - MINUTE_US, START_US + MINUTE_US))
changing_terms = st.builds(Terms.under, any_terms, generations)


@given(
    documents=st.lists(changing_terms, min_size=1, max_size=4),
    schedule=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2 * SECOND_US), st.integers(1, 3)), max_size=60),
)
def test_mixed_documents_admit_no_more_than_the_most_generous_allows(
    documents: list[Terms], schedule: list[tuple[int, int, int]]
) -> None:
    """A part of a bucket that was filled under one document may be spent under another: it is a part of the largest at most.

    No bucket is forgotten here: that a full one is gives whoever is behind its own capacity once more.
    """
    bucket, now_us, admitted = None, START_US, 0
    for which, later_us, cost in schedule:
        now_us += later_us
        (bucket,), taken = take([bucket], [documents[which % len(documents)]], [False], [cost], UNLOWERED, now_us)
        admitted += cost if taken.status == Status.ALLOW else 0
        bucket = bucket and replace(bucket, expires_us=now_us + 10**12)
    most = max(terms.capacity for terms in documents)
    filled = max(terms.refill / (terms.capacity_units * terms.tick_us) for terms in documents) * (now_us - START_US)
    assert admitted <= most * (1 + filled) + 1e-6


@given(units=st.integers(0, LARGEST_EXACT), whole=st.integers(1, LARGEST_EXACT), new_whole=st.integers(1, LARGEST_EXACT))
def test_rescaling_rounds_down_by_a_millionth_at_most(units: int, whole: int, new_whole: int) -> None:
    units = min(units, whole)
    found = rescale(units, whole, new_whole)
    assert found * whole <= units * new_whole
    assert units * new_whole - found * whole <= whole * (new_whole / 2**20 + 1)
    assert rescale(whole, whole, new_whole) == new_whole


def test_bucket_past_its_expiry_counts_as_new() -> None:
    old = Bucket(0, START_US + MINUTE_US, FIVE_A_MINUTE.tag, expires_us=START_US + MINUTE_US)
    assert refill(old, FIVE_A_MINUTE, UNLOWERED, 1, START_US + MINUTE_US).level == FIVE_A_MINUTE.capacity_units
    assert refill(old, FIVE_A_MINUTE, UNLOWERED, 1, START_US + MINUTE_US - 1).level == 0


def test_expiry_is_when_the_bucket_is_full_rounded_up_to_a_millisecond() -> None:
    bucket, _ = step(None, START_US + 1, cost=1)
    assert bucket is not None
    assert bucket.expires_us == START_US + 1 + 12 * SECOND_US
    quick = Terms.of(1, 1, 1500)
    stored, _ = take([None], [quick], [False], [1], UNLOWERED, START_US)
    assert stored[0] is not None
    assert stored[0].expires_us == START_US + 2000


def test_expiry_under_a_factor_waits_for_the_slow_refill() -> None:
    bucket, _ = step(None, START_US, cost=1, factor=500)
    assert bucket is not None
    missing_ticks = (FIVE_A_MINUTE.capacity_units - bucket.level) // FIVE_A_MINUTE.refill
    assert bucket.expires_us == START_US + 2 * missing_ticks


def test_all_limits_are_taken_from_or_none() -> None:
    wide, narrow = Terms.of(10, 1, SECOND_US), Terms.of(2, 1, SECOND_US)
    buckets: list[Bucket | None] = [None, None]
    for _ in range(2):
        buckets, taken = take(buckets, [wide, narrow], [False, False], [1, 1], UNLOWERED, START_US)
        assert taken.status == Status.ALLOW
    after, taken = take(buckets, [wide, narrow], [False, False], [1, 1], UNLOWERED, START_US)
    assert (taken.status, taken.refused) == (Status.LIMIT, 0b10)
    assert after == buckets
    assert taken.levels == (8 * wide.period_ticks, 0)


def test_shadow_limit_never_refuses_and_pays_while_it_can() -> None:
    wide, trial = Terms.of(10, 1, SECOND_US), Terms.of(1, 1, SECOND_US)
    buckets, taken = take([None, None], [wide, trial], [False, True], [1, 1], UNLOWERED, START_US)
    assert taken.levels == (9 * wide.period_ticks, 0)
    buckets, taken = take(buckets, [wide, trial], [False, True], [1, 1], UNLOWERED, START_US)
    assert (taken.status, taken.refused) == (Status.ALLOW, 0b10)
    assert taken.levels == (8 * wide.period_ticks, 0)


def test_shadow_limit_keeps_its_tokens_when_an_enforced_one_refuses() -> None:
    one, trial = Terms.of(1, 1, SECOND_US), Terms.of(5, 1, SECOND_US)
    buckets, _ = take([None, None], [one, trial], [False, True], [1, 1], UNLOWERED, START_US)
    after, taken = take(buckets, [one, trial], [False, True], [1, 1], UNLOWERED, START_US)
    assert taken.status == Status.LIMIT
    assert after == buckets


@given(capacity=st.integers(1, 2**53), amount=st.integers(1, 10**12), period_us=st.integers(1, 10**15))
def test_terms_are_exact_or_refused(capacity: int, amount: int, period_us: int) -> None:
    try:
        terms = Terms.of(capacity, amount, period_us)
    except TermsOutOfRange as error:
        assert "is too large for this refill period; at most" in str(error)  # noqa: PT017 some terms fit, some do not
        return
    assert terms.capacity_units == capacity * terms.period_ticks <= LARGEST_EXACT
    assert terms.period_ticks * terms.tick_us == period_us
    assert -(-terms.capacity_units // amount) * UNLOWERED <= LARGEST_EXACT


def test_terms_take_the_finest_tick_that_is_exact() -> None:
    assert Terms.of(5, 5, MINUTE_US).tick_us == 1
    assert Terms.of(1000, 1000, 86_400 * SECOND_US).tick_us == 1
    assert Terms.of(1_000_000, 1, 86_400 * SECOND_US // 10).tick_us == 1000


def test_message_tells_the_largest_capacity_that_fits() -> None:
    day_us = 86_400 * SECOND_US
    with pytest.raises(TermsOutOfRange) as refused:
        Terms.of(10**9, 1, day_us)
    assert str(refused.value) == "capacity 1000000000 is too large for this refill period; at most 104249 is allowed with it"
    assert Terms.of(104_249, 1, day_us).tick_us == 1000
    with pytest.raises(TermsOutOfRange):
        Terms.of(104_250, 1, day_us)


@pytest.mark.parametrize(
    ("terms", "tag"),
    [
        (FIVE_A_MINUTE, "0:5/1m"),
        (Terms.of(30, 5, MINUTE_US).under(Generation(12, START_US)), "12:30:5/1m"),
        (Terms.of(5, 5, 90 * SECOND_US), "0:5/90s"),
        (Terms.of(5, 5, 500_000), "0:5/500000us"),
        (Terms.of(1000, 1000, 86_400 * SECOND_US), "0:1000/1d"),
        (Terms.of(1_000_000, 1, 8640 * SECOND_US), "0:1000000:1/8640000ms"),
    ],
)
def test_tag_says_what_the_terms_are(terms: Terms, tag: str) -> None:
    assert terms.tag == tag
    found = Terms.parse(tag)
    assert found is not None
    assert found.under(terms.generation) == terms


@pytest.mark.parametrize(
    "tag", ["", "3fa9c1", "1:5", "1:5/0s", "1:0/1s", "1:0:5/1s", "1:5/1y", "-1:5/1s", "1:2:3:4/1s", "1:9007199254740992/1d"]
)
def test_what_is_no_tag_is_told_as_such(tag: str) -> None:
    assert Terms.parse(tag) is None


@given(terms=changing_terms)
def test_every_tag_is_read_back(terms: Terms) -> None:
    found = Terms.parse(terms.tag)
    assert found is not None
    assert found.under(terms.generation) == terms


def test_usual_bucket_fits_an_embedded_string() -> None:
    """Redis keeps a string of up to 44 bytes in one piece."""
    for terms in (FIVE_A_MINUTE, Terms.of(50, 50, SECOND_US), Terms.of(1000, 1000, 86_400 * SECOND_US)):
        assert len(f"{terms.capacity_units} {START_US} {terms.under(Generation(999, 0)).tag}") <= 44
