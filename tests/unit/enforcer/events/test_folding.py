"""Which refusals count against whom."""

from __future__ import annotations

import pytest

from enforcer.decisions.decision import Decision
from enforcer.decisions.plan import Plan
from enforcer.events.folding import Folder
from tests.unit.enforcer.builders import EVERYTHING, make_plan, make_policies
from topics import folding
from topics.folding import MOST_HASHES, hash_text

IP = {"ip": "203.0.113.7"}
PER_IP, PER_USER = 0b01, 0b10


def deny(refused_at_1: int, at_ms: int = 1000, **changes: object) -> Decision:
    values = {"outcome": "deny", "reason": "limit", "decided_at_ms": at_ms, "refused_at_1": refused_at_1} | changes
    return Decision(**values)  # type: ignore[arg-type]


ALLOW = Decision("allow", "ok", 1000)


def fold(*decisions: tuple[Plan, Decision], foldable: tuple[str, ...] = ()) -> dict[str, tuple[str, int]]:
    folder = Folder(foldable)
    for plan, decision in decisions:
        folder.add(plan, decision)
    return {each.subject: (each.limit, each.count) for each in folder.take()}


def test_refusal_counts_for_the_kinds_that_the_refusing_limit_is_per() -> None:
    plan = make_plan(attributes=IP)
    assert fold((plan, deny(PER_USER))) == {"user=alice": ("per_user", 1)}
    assert fold((plan, deny(PER_IP))) == {"ip=203.0.113.7": ("per_ip", 1)}
    assert fold((plan, deny(PER_IP | PER_USER))) == {"ip=203.0.113.7": ("per_ip", 1), "user=alice": ("per_user", 1)}


def test_limit_that_everybody_drains_counts_for_nobody() -> None:
    assert fold((make_plan(action="shared"), deny(0b01))) == {}


def test_limit_per_user_and_ip_counts_for_both_by_one_refusal() -> None:
    policies = make_policies(
        "version: 1\nsubjects: [user, ip]\npolicies:\n  - name: d\n    match: { action: '*' }\n    limits:\n"
        "      - { name: pair, per: [user, ip], capacity: 1, refill: 1/1s }\n"
    )
    plan = make_plan(attributes=IP, policies=policies)
    assert fold((plan, deny(0b1))) == {"user=alice": ("pair", 1), "ip=203.0.113.7": ("pair", 1)}


def test_limit_per_an_attribute_counts_for_the_subjects_beside_it_alone() -> None:
    plan = make_plan(attributes=IP | {"country": "DE"}, policies=make_policies(EVERYTHING))
    assert plan.limits[1].label == "logins:per_country"
    assert fold((plan, deny(0b10))) == {"ip=203.0.113.7": ("per_country", 1)}


@pytest.mark.parametrize(
    "decision",
    [
        pytest.param(Decision("ban", "banned", 1000, refused_at_1=PER_USER), id="banned"),
        pytest.param(deny(PER_USER, reason="throttled"), id="throttled"),
        pytest.param(deny(PER_USER, reason="open"), id="open"),
        pytest.param(deny(PER_USER, is_degraded=True), id="degraded"),
        pytest.param(deny(0), id="refused at the factor alone"),
        pytest.param(Decision("allow", "ok", 1000, refused_at_1=PER_USER, is_shadow=True), id="allowed"),
    ],
)
def test_refusals_of_other_reasons_never_fold(decision: Decision) -> None:
    assert fold((make_plan(attributes=IP), decision)) == {}


def test_limit_in_shadow_mode_never_folds() -> None:
    assert fold((make_plan(action="shared"), deny(0b10))) == {}


def test_cached_refusals_fold_as_others_do() -> None:
    assert fold((make_plan(), deny(0b1, is_cached=True))) == {"user=alice": ("per_user", 1)}


def test_suppressed_denials_are_counted_with_the_refusal() -> None:
    assert fold((make_plan(suppressed=4), deny(0b1)), (make_plan(), deny(0b1))) == {"user=alice": ("per_user", 6)}


NAMED = ("login:per_user", "login:gone")


def test_suppressed_denials_of_named_limits_are_counted_although_the_check_is_allowed() -> None:
    plan = make_plan(suppressed=4, suppressed_limits=NAMED, attributes=IP)
    assert fold((plan, ALLOW)) == {"user=alice": ("per_user", 4)}


def test_suppressed_denials_of_named_limits_are_counted_once_whatever_refuses_the_check() -> None:
    plan = make_plan(suppressed=4, suppressed_limits=NAMED, attributes=IP)
    assert fold((plan, deny(PER_USER))) == {"user=alice": ("per_user", 5)}
    assert fold((plan, deny(PER_IP))) == {"user=alice": ("per_user", 4), "ip=203.0.113.7": ("per_ip", 1)}
    assert fold((plan, deny(PER_USER, reason="throttled"))) == {"user=alice": ("per_user", 4)}


def test_suppressed_denials_of_an_allowed_check_that_names_no_limits_count_for_nobody() -> None:
    assert fold((make_plan(suppressed=4), ALLOW)) == {}


def test_fold_spans_first_and_last_refusal_whatever_their_order() -> None:
    folder = Folder()
    for at_ms in (1200, 1000, 1900):
        folder.add(make_plan(), deny(0b1, at_ms))
    assert len(folder) == 1
    (each,) = folder.take()
    assert (each.action, each.policy, each.first_ms, each.last_ms, each.count) == ("login", "login", 1000, 1900, 3)
    assert (len(folder), folder.take()) == (0, [])


def test_fold_never_spans_two_seconds() -> None:
    folder = Folder()
    for at_ms in (1000, 1999, 2000):
        folder.add(make_plan(), deny(0b1, at_ms))
    assert [(each.first_ms, each.last_ms, each.count) for each in folder.take()] == [(1000, 1999, 2), (2000, 2000, 1)]


def test_open_folds_are_bounded_and_what_is_not_counted_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "MOST_OPEN", 3)
    folder = Folder()
    for user in ("a", "b", "c", "d", "a"):
        folder.add(make_plan(user, suppressed=1), deny(0b1))
    assert folder.uncounted == 2
    assert [(each.subject, each.count) for each in folder.take()] == [("user=a", 4), ("user=b", 2), ("user=c", 2)]


def test_admissions_since_the_last_fold_are_told_of_those_who_were_refused() -> None:
    folder = Folder()
    folder.add(make_plan(), ALLOW)  # before the first refusal: not counted
    folder.add(make_plan(), deny(0b1))
    folder.add(make_plan(), ALLOW)
    assert [each.admitted for each in folder.take()] == [0]
    for _ in range(3):
        folder.add(make_plan(), ALLOW)
    folder.add(make_plan("bob"), ALLOW)
    folder.add(make_plan(action="other"), ALLOW)
    folder.add(make_plan(), deny(0b1))
    assert [each.admitted for each in folder.take()] == [4]
    folder.add(make_plan(), deny(0b1))
    assert [each.admitted for each in folder.take()] == [0]


def test_an_ips_fold_tells_up_to_64_distinct_users_and_a_users_own_none() -> None:
    folder = Folder()
    for number in range(MOST_HASHES + 20):
        for _ in range(2):
            folder.add(make_plan(f"user-{number}", attributes=IP), deny(PER_IP | PER_USER))
    folds = {each.subject: each for each in folder.take()}
    own = folds.pop("ip=203.0.113.7")
    assert len(own.users) == MOST_HASHES
    assert set(own.users) == {hash_text(f"user-{number}") for number in range(MOST_HASHES)}
    assert all(each.users == () for each in folds.values())
    assert all(0 <= user < 2**48 for user in own.users)


def test_attributes_are_kept_where_all_refusals_share_them() -> None:
    folder = Folder(("agent", "country"))
    for agent in ("curl", "curl", "wget"):
        folder.add(make_plan(attributes={"agent": agent, "country": "is", "secret": "x"}), deny(0b1))
    (each,) = folder.take()
    assert each.attributes == {"country": "is"}
    folder.add(make_plan(attributes={"agent": "curl"}), deny(0b1))
    folder.add(make_plan(), deny(0b1))
    (each,) = folder.take()
    assert each.attributes == {}


def test_counts_of_admissions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "MOST_REFUSED", 10)
    folder = Folder()
    for number in range(30):
        folder.add(make_plan(f"user-{number}"), deny(0b1))
    folder.take()
    assert len(folder._admitted) == 10
