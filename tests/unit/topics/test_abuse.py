from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from topics.abuse import add_ban, covers, decay_score, wrap_state
from topics.events import RECORDS, AbuseState, Ban, SubjectEvent

DAY_MS = 86_400_000


def make_ban(until_ms: int, *scope: str, name: str = "a") -> Ban:
    return Ban(until_ms=until_ms, level=0, rule="", verdict_id=name, scope=scope or ("*",))


def test_decay_halves_exactly_and_runs_straight_between() -> None:
    assert [decay_score(1000, DAY_MS * quarter // 4, DAY_MS) for quarter in range(9)] == [
        1000, 875, 750, 625, 500, 438, 375, 313, 250
    ]  # fmt: skip
    assert decay_score(1000, -5, DAY_MS) == 1000


@given(
    score=st.integers(0, 16_000),
    elapsed_ms=st.integers(0, 100 * DAY_MS),
    more_ms=st.integers(0, DAY_MS),
    half_life_ms=st.integers(1_000, 365 * DAY_MS),
)
def test_score_never_grows_by_waiting(score: int, elapsed_ms: int, more_ms: int, half_life_ms: int) -> None:
    now = decay_score(score, elapsed_ms, half_life_ms)
    assert 0 <= decay_score(score, elapsed_ms + more_ms, half_life_ms) <= now <= score


def test_score_of_unknown_half_life_stays() -> None:
    assert decay_score(1000, DAY_MS, 0) == 1000


def test_scope_covers_the_same_globs_and_fewer_and_all_actions_cover_everything() -> None:
    assert covers(("*",), ("login", "api/*"))
    assert covers(("login", "api/*"), ("api/*",))
    assert not covers(("api/*",), ("api/search",))


def test_longer_ban_replaces_what_it_covers_and_the_shorter_one_stays_beside_what_outlasts_it() -> None:
    short, long = make_ban(10, "login", name="b"), make_ban(30, name="c")
    assert add_ban((short,), long, at_ms=0) == (long,)
    assert add_ban((long,), short, at_ms=0) == (long, short)
    assert add_ban((make_ban(20, "login"),), make_ban(30, "api/*"), at_ms=0)[1:] == (make_ban(20, "login"),)


def test_ban_that_is_over_goes() -> None:
    assert add_ban((make_ban(10, "login"),), make_ban(30, "api/*"), at_ms=10) == (make_ban(30, "api/*"),)


def test_state_is_wrapped_as_the_script_wrote_it() -> None:
    state = AbuseState(rev=4, score=1000, bans=(make_ban(9, "login"),))
    value = wrap_state("user=m", state.model_dump_json().encode())
    assert RECORDS["subjects"].validate_json(value) == SubjectEvent(subject="user=m", state=state)
