from collections import Counter
from itertools import takewhile

from examples.actors import (
    BIG_BURST,
    BURST,
    OFFICE_IP,
    OFFICE_PEOPLE,
    SCRAPER,
    VICTIM,
    Step,
    password_of,
    play_everybody,
)

CAPACITY, REFILL_PER_S = 5, 5 / 60
"""Terms of the default login limit per user."""


def play(seed: int, seconds: float) -> list[Step]:
    return list(takewhile(lambda step: step.at_s < seconds, play_everybody(seed)))


def test_same_seed_gives_the_same_steps_and_another_gives_others() -> None:
    assert play(1, 120) == play(1, 120)
    assert play(1, 120) != play(2, 120)


def test_steps_come_in_the_order_of_their_times() -> None:
    times = [step.at_s for step in play(1, 120)]
    assert times == sorted(times)


def test_everybody_comes() -> None:
    actors = {step.actor for step in play(1, 60)}
    assert actors == {"person", "job", "office", "brute_forcer", "stuffer", "scraper"}


def test_people_stay_within_the_login_limit() -> None:
    for seed in range(2):
        level: dict[str, tuple[float, float]] = {}
        for step in play(seed, 1200):
            if step.actor in ("person", "office") and step.action == "login":
                tokens, at_s = level.get(step.user, (CAPACITY, 0.0))
                tokens = min(CAPACITY, tokens + (step.at_s - at_s) * REFILL_PER_S)
                assert tokens >= 1, step
                level[step.user] = (tokens - 1, step.at_s)


def test_people_sometimes_mistype_their_password() -> None:
    logins = [step for step in play(1, 3600) if step.actor == "person" and step.action == "login"]
    mistyped = [step for step in logins if step.text != password_of(step.user)]
    assert 0 < len(mistyped) < len(logins) / 4


def test_office_is_many_users_behind_one_address() -> None:
    office = [step for step in play(1, 90) if step.actor == "office"]
    assert {step.ip for step in office} == {OFFICE_IP}
    assert len({step.user for step in office}) == OFFICE_PEOPLE


def test_brute_forcer_tries_one_user_and_stuffer_tries_each_once() -> None:
    steps = play(1, 300)
    assert {step.user for step in steps if step.actor == "brute_forcer"} == {VICTIM}
    stuffed = [step.user for step in steps if step.actor == "stuffer"]
    assert len(stuffed) == len(set(stuffed)) > 100
    assert len({step.ip for step in steps if step.actor == "stuffer"}) == 1


def test_every_third_burst_of_the_job_is_beyond_its_limit() -> None:
    bursts = Counter(step.text.split(" page")[0] for step in play(1, 35) if step.actor == "job")
    assert list(bursts.values())[:3] == [BURST, BURST, BIG_BURST]


def test_scraper_stays_under_the_search_limit_in_every_second() -> None:
    per_second = Counter(int(step.at_s) for step in play(1, 60) if step.user == SCRAPER)
    assert max(per_second.values()) <= 50
