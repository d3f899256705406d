"""Decisions are folded again as the enforcers folded them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from config.declared import DeclaredPolicies
from config.document import read_document
from detector.refolding import FLUSH_MS, Refolder
from topics.recorded import Recorded
from topics.wire import Fold, FoldsEvent

T0 = 1_800_000_000_000
POLICIES = read_document(Path("config/policies.yaml"), DeclaredPolicies).model


def decide(at_ms: int = T0, *, limits: tuple[str, ...] = ("login:per_user",), seq: int = 1, **rest: Any) -> Recorded:
    values: dict[str, Any] = {
        "source": "a/0/1",
        "seq": seq,
        "decided_at_ms": at_ms,
        "user_id": "alice",
        "action": "login",
        "attributes": {"ip": "203.0.113.7"},
        "policy": "login",
        "policy_version": "v",
        "limits": limits,
        "outcome": "deny" if limits else "allow",
        "reason": "limit" if limits else "ok",
    }
    return Recorded(**(values | rest))


def refold(*records: Recorded) -> list[FoldsEvent]:
    refolder = Refolder(POLICIES)
    events = [event for record in records for event in refolder.add(record)]
    return [*events, *refolder.flush()]


def list_folds(*records: Recorded) -> dict[str, Fold]:
    return {fold.subject: fold for event in refold(*records) for fold in event.folds}


def test_refusal_counts_for_the_kind_that_the_limit_is_about() -> None:
    assert list(list_folds(decide())) == ["user=alice"]
    assert list(list_folds(decide(limits=("login:per_ip",)))) == ["ip=203.0.113.7"]
    both = list_folds(decide(limits=("login:per_ip", "login:per_user")))
    assert {subject: fold.limit for subject, fold in both.items()} == {"ip=203.0.113.7": "per_ip", "user=alice": "per_user"}


def test_what_no_limit_refused_by_itself_counts_for_nobody() -> None:
    assert list_folds(decide(outcome="ban", reason="banned", limits=())) == {}
    assert list_folds(decide(reason="throttled")) == {}
    assert list_folds(decide(reason="open")) == {}
    assert list_folds(decide(degraded=True)) == {}


def test_refusals_that_a_client_kept_to_itself_count_by_the_limits_that_had_refused_them() -> None:
    told = list_folds(decide(limits=(), suppressed=4, suppressed_limits=("login:per_user",)))
    assert told["user=alice"].count == 4
    assert list_folds(decide(suppressed=4))["user=alice"].count == 5


def test_one_flush_of_one_source_is_one_record() -> None:
    events = refold(
        decide(),
        decide(T0 + FLUSH_MS - 1),
        decide(T0 + FLUSH_MS - 1, source="b/0/1"),
        decide(T0 + FLUSH_MS),
    )
    assert [(event.source, event.n, [fold.count for fold in event.folds]) for event in events] == [
        ("a/0/1", 1, [2]),
        ("b/0/1", 1, [1]),
        ("a/0/1", 2, [1]),
    ]


def test_admits_between_refusals_are_told() -> None:
    folds = [fold for event in refold(decide(), decide(T0 + 60, limits=()), decide(T0 + 120)) for fold in event.folds]
    assert [fold.admitted for fold in folds] == [0, 1]


def test_limit_that_the_policies_do_not_have_counts_for_nobody_and_is_counted() -> None:
    refolder = Refolder(POLICIES)
    refolder.add(decide(limits=("gone:per_user",)))
    assert (refolder.flush(), refolder.unknown) == ([], 1)


def test_refusal_by_several_limits_under_a_factor_is_uncertain() -> None:
    refolder = Refolder(POLICIES)
    refolder.add(decide(limits=("login:per_ip", "login:per_user"), factor=500))
    refolder.add(decide(factor=500))
    assert refolder.uncertain == 1
