"""How a limit is divided among data planes, and what each is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.decisions.decision import Ban, Reading
from enforcer.decisions.plan import Plan
from enforcer.envoy.quota import (
    ALLOW_ALL,
    DENY_ALL,
    LARGEST_DEMAND,
    LEAST_DEMAND,
    WHOLE,
    Assignment,
    Shares,
    assign,
    find_excess,
    find_level,
    find_payable,
    find_quantum,
    measure_burst,
    measure_demand,
    measure_recovery_us,
    tell_apart,
)
from enforcer.limits.bucket import Status, Terms
from tests.unit.enforcer.builders import make_plan, make_policies

POLICIES = make_policies("""
version: 1
subjects: [user, ip]
policies:
  - name: api
    match: { action: api }
    limits:
      - { name: everybody, per: [], capacity: 1000, refill: 500/1s }
      - { name: trial, per: [user], capacity: 1, refill: 1/1h, mode: shadow }
      - { name: per_user, per: [user], capacity: 100, refill: 50/1s }
  - name: login
    match: { action: login }
    limits: [{ name: per_user, per: [user], capacity: 5, refill: 5/1m }]
  - { name: default, match: { action: "*" }, limits: [] }
""")
API, LOGIN, FREE = (make_plan(action=action, policies=POLICIES) for action in ("api", "login", "free"))
demands = st.lists(st.integers(LEAST_DEMAND, LARGEST_DEMAND), min_size=1, max_size=70)


def read(plan: Plan, tokens: Sequence[int], now_us: int = 0, factor: int = 1000) -> Reading:
    levels = tuple(count * limit.terms.period_ticks for count, limit in zip(tokens, plan.limits, strict=True))
    return Reading(now_us, Status.ALLOW, factor=factor, levels=levels)


def divide(shares: Shares, wanted: Sequence[int], now_s: float = 0.0) -> list[int]:
    for member, demand in enumerate(wanted):
        shares.ask(member, demand)
    shares.divide(range(len(wanted)), now_s)
    return [shares.find_share(member) for member in range(len(wanted))]


@given(demands, st.integers(0, WHOLE), st.integers(1, 200))
def test_shares_are_never_more_than_what_is_granted(wanted: list[int], granted: int, capacity: int) -> None:
    shares = Shares(-(-WHOLE // capacity), granted)
    assert sum(divide(shares, wanted)) <= granted


@given(st.lists(st.tuples(st.sampled_from(["ask", "leave", "grant"]), st.integers(0, 9), st.integers(0, WHOLE * 2))))
def test_shares_are_never_more_than_what_is_granted_whoever_comes_and_goes(steps: list[tuple[str, int, int]]) -> None:
    shares = Shares(WHOLE // 50, WHOLE)
    for now_s, (what, member, amount) in enumerate(steps):
        if what == "ask":
            shares.ask(member, amount)
        elif what == "leave":
            shares.leave(member)
        else:
            shares.granted = min(amount, WHOLE)
        shares.divide(list(shares.members), now_s)
        assert sum(shares.find_share(each) for each in shares.members) <= shares.granted


def test_everybody_gets_what_it_asks_for_while_that_fits() -> None:
    a, b = divide(Shares(1, WHOLE), [WHOLE // 4, WHOLE // 2])
    assert a >= WHOLE // 4
    assert b >= WHOLE // 2
    assert a + b == WHOLE


def test_a_modest_member_is_served_before_a_greedy_one() -> None:
    assert divide(Shares(1, WHOLE), [WHOLE // 10, WHOLE * 100]) == [WHOLE // 10, WHOLE * 9 // 10]


@given(st.integers(2, 20))
def test_equal_demands_get_equal_shares(count: int) -> None:
    assert set(divide(Shares(1, WHOLE), [WHOLE] * count)) == {WHOLE // count}


@given(demands, demands)
def test_shares_follow_the_demand_whatever_was_before(before: list[int], after: list[int]) -> None:
    count = min(len(before), len(after), 60)
    shares = Shares(1, WHOLE)
    divide(shares, before[:count])
    level, extra = find_level(after[:count], WHOLE)
    assert divide(shares, after[:count]) == [min(demand, level) + extra for demand in after[:count]]


def test_a_member_that_gets_less_is_named_to_be_told() -> None:
    shares = Shares(1, WHOLE)
    shares.ask("first", WHOLE)
    assert shares.divide(["first"], 0.0) == set()
    shares.ask("second", WHOLE)
    assert shares.divide(["second"], 1.0) == {"first"}
    assert shares.find_share("first") == shares.find_share("second") == WHOLE // 2


def test_a_share_below_one_token_is_none_or_a_whole_one() -> None:
    shares = Shares(find_quantum(LOGIN.limits[0].terms), WHOLE)
    assert sorted(divide(shares, [WHOLE] * 10)) == [0] * 5 + [WHOLE // 5] * 5


def test_what_a_member_held_that_left_goes_to_the_others() -> None:
    shares = Shares(1, WHOLE)
    divide(shares, [WHOLE, WHOLE])
    shares.leave(1)
    shares.divide([0], 1.0)
    assert shares.find_share(0) == WHOLE
    assert shares.demand == WHOLE


def test_many_members_get_their_parts_as_they_report() -> None:
    shares = Shares(1, WHOLE)
    for member in range(100):
        shares.ask(member, WHOLE)
    shares.divide([0], 10.0)
    assert [shares.find_share(member) for member in (0, 1)] == [WHOLE // 100, 0]
    shares.divide([1], 11.0)
    assert shares.find_share(1) == WHOLE // 100


def test_demand_is_the_part_of_the_limit_that_the_requests_need() -> None:
    terms = Terms.of(100, 50, 1_000_000)
    assert measure_demand(terms, 125, 5_000_000) == WHOLE // 2
    assert measure_demand(terms, 0, 5_000_000) == 0
    assert measure_demand(terms, 2**63, 1) == LARGEST_DEMAND


@given(st.integers(0, WHOLE), st.integers(0, WHOLE), st.integers(0, 1000), st.integers(0, 100), st.integers(1, 1000))
def test_two_assignments_are_together_within_every_limit(
    share: int, other: int, everybody: int, user: int, factor: int
) -> None:
    other = min(other, WHOLE - share)
    told = [assign(API, read(API, [everybody, 0, user], factor=factor), [part, 0, part], 0, 5.0) for part in (share, other)]
    buckets = [each for each in told if each.kind == "bucket"]
    assert sum(each.max_tokens for each in buckets) <= max(100, len(buckets))
    assert sum(each.tokens_per_fill / each.fill_interval_s for each in buckets) <= 50 * factor / 1000


def test_the_tightest_limit_decides_and_shadow_ones_do_not() -> None:
    assert assign(API, read(API, [1000, 0, 100]), [WHOLE, 0, WHOLE], 0, 5.0) == Assignment("bucket", 100, 1000, 20)
    tight = assign(API, read(API, [1000, 0, 100]), [WHOLE // 20, 0, WHOLE], 0, 5.0)
    assert tight.tokens_per_fill / tight.fill_interval_s == 25
    assert tight.max_tokens == 50


def test_a_burst_is_what_the_bucket_holds_but_a_seconds_refill_at_least() -> None:
    assert assign(API, read(API, [1000, 0, 70]), [WHOLE] * 3, 0, 5.0).max_tokens == 70
    assert assign(API, read(API, [1000, 0, 3]), [WHOLE] * 3, 0, 5.0).max_tokens == 50


def test_a_factor_lowers_refill_and_burst() -> None:
    assert assign(LOGIN, read(LOGIN, [5], factor=400), [WHOLE], 0, 5.0) == Assignment("bucket", 2, 400, 12_000)


def test_what_is_owed_goes_off_the_refill_until_nothing_passes() -> None:
    full = [1000, 0, 100]
    assert assign(API, read(API, full), [WHOLE] * 3, 125, 5.0).tokens_per_fill == 500
    assert assign(API, read(API, full), [WHOLE] * 3, 250, 5.0) == DENY_ALL


def test_without_limits_all_pass_and_without_a_share_none_does() -> None:
    assert assign(FREE, read(FREE, []), [], 0, 5.0) == ALLOW_ALL
    assert assign(LOGIN, read(LOGIN, [5]), [0], 0, 5.0) == DENY_ALL


def test_fill_intervals_are_whole_seconds_in_which_a_thousandth_is_a_token() -> None:
    fast = assign(API, read(API, [1000, 0, 100]), [WHOLE // 1000 * 40, 0, WHOLE], 0, 5.0)
    assert (fast.tokens_per_fill, fast.fill_interval_s) == (40, 2)


def test_a_change_of_the_interval_alone_is_told_with_one_token_fewer() -> None:
    before, after = Assignment("bucket", 5, 1000, 12_000), Assignment("bucket", 5, 1000, 6_000)
    assert tell_apart(after, before) == Assignment("bucket", 5, 999, 6_000)
    for same in (Assignment("bucket", 5, 1000, 12_000), Assignment("bucket", 6, 1000, 6_000), DENY_ALL):
        assert tell_apart(same, before) == same
    assert tell_apart(after, None) == after
    assert tell_apart(after, DENY_ALL) == after


def test_a_bucket_pays_what_it_holds() -> None:
    assert find_payable(API, read(API, [1000, 0, 30]), 50) == 30
    assert find_payable(API, read(API, [20, 0, 30]), 50) == 20
    assert find_payable(API, read(API, [1000, 0, 100]), 500) == 100


def test_a_burst_is_what_the_shares_of_full_buckets_could_pay() -> None:
    assert measure_burst(API, [WHOLE // 4, 0, WHOLE]) == 100
    assert measure_burst(API, [WHOLE // 20, 0, WHOLE]) == 50
    assert measure_burst(FREE, []) > 2**50


BEFORE = read(LOGIN, [2], now_us=60_000_000)


@pytest.mark.parametrize(("requests", "counted"), [(2, 0), (3, 0), (4, 1), (100, 97)])
def test_refusals_count_only_beyond_what_the_whole_limit_could_have_let_pass(requests: int, counted: int) -> None:
    after = read(LOGIN, [0], now_us=72_000_000)  # one token more has come since
    assert find_excess(LOGIN, BEFORE, after, requests) == (counted, 1 if counted else 0)


def test_only_limits_that_would_have_refused_by_themselves_are_blamed() -> None:
    before = read(API, [1000, 0, 100])
    after = read(API, [0, 0, 0], now_us=1_000_000)
    assert find_excess(API, before, after, 200) == (50, 4)
    assert find_excess(API, before, after, 1600) == (100, 5)


def test_nothing_counts_around_a_ban_or_an_outage() -> None:
    ban = Ban(1, 1, "rule", "id", "user=alice", ("*",))
    after = read(LOGIN, [0], now_us=72_000_000)
    banned = Reading(72_000_000, Status.BAN, ban=ban)
    degraded = Reading(72_000_000, Status.ALLOW, levels=(0,), is_degraded=True)
    for before, now in ((banned, after), (BEFORE, banned), (degraded, after), (BEFORE, degraded)):
        assert find_excess(LOGIN, before, now, 100) == (0, 0)


def test_recovery_takes_as_long_as_the_slowest_limit_takes_to_fill() -> None:
    assert measure_recovery_us(LOGIN) == 60_000_000
    assert measure_recovery_us(API) == 2_000_000
    assert measure_recovery_us(FREE) == 0
