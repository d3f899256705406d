"""What a fold holds."""

from __future__ import annotations

from topics.folding import Folds, hash_text

IP = "ip=203.0.113.7"


def count(folds: Folds, at_ms: int, user: str = "alice", count: int = 1) -> None:
    folds.count(IP, "login", "login", "per_ip", at_ms, count, user, {"agent": "curl", "secret": "x"})


def test_refusals_of_one_second_by_one_limit_are_one_fold() -> None:
    folds = Folds(("agent",))
    count(folds, 1_020)
    count(folds, 1_010, "bob", 3)
    count(folds, 2_000)
    assert len(folds) == 2
    first, second = folds.take()
    assert (first.count, first.first_ms, first.last_ms) == (4, 1_010, 1_020)
    assert set(first.users) == {hash_text("alice"), hash_text("bob")}
    assert first.attributes == {"agent": "curl"}
    assert second.count == 1
    assert folds.take() == []


def test_admits_count_from_the_first_fold_on_and_go_with_the_next() -> None:
    folds = Folds()
    folds.admit(IP, "login")
    count(folds, 1_000)
    folds.admit(IP, "login")
    folds.admit(IP, "search")
    folds.take()
    folds.admit(IP, "login")
    count(folds, 2_000)
    assert [each.admitted for each in folds.take()] == [2]
