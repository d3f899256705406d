"""Who comes to the example's API, and what each of them does when. Pure, and the same for the same seed.

Addresses are those that RFC 5737 sets aside for documentation. Rates are events per second of the scenario's own time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Literal

PEOPLE = 12
OFFICE_PEOPLE = 35
"""More than the 30 logins that the default policy allows one address at once."""
OFFICE_IP = "198.51.100.20"
BRUTE_FORCER_IP = "203.0.113.66"
STUFFER_IP = "203.0.113.99"
SCRAPER_IP = "198.51.100.77"
JOB_IP = "198.51.100.9"
VICTIM = "victim"
JOB = "reports-job"
SCRAPER = "scraper"

BRUTE_FORCE_PER_S = 3.0
STUFFING_PER_S = 2.0
SCRAPER_PER_S = 5.0
PERSON_SEARCHES_PER_S = 0.3
BURST_EVERY_S = 10.0
BURST = 40
"""Within the 50 searches that a user has at once."""
BIG_BURST = 120
"""Beyond them; every third burst. Its refusals lead to no ban: they are far below what rule `scraping` counts."""

_WORDS = ("shoes", "red shoes", "tea", "teapot", "rain coat", "bicycle", "lamp", "desk", "atlas", "radio")
_WRONG_PASSWORD_SHARE = 0.1


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One request of one actor.

    Attributes:
        at_s: Seconds from the scenario's start.
        actor: Which kind of actor sends it: ``person``, ``job``, ``office``, ``brute_forcer``, ``stuffer``, ``scraper``.
        user: User name that the request carries.
        ip: Address that it comes from.
        action: What it asks for.
        text: The password of a login, the query of a search.
    """

    at_s: float
    actor: str
    user: str
    ip: str
    action: Literal["login", "search"]
    text: str


def password_of(user: str) -> str:
    """Return the right password of a user of the example backend."""
    return f"{user}-secret"


def play_person(seed: int, number: int) -> Iterator[Step]:
    """Yield one person's steps: a few searches, and now and then a login, at times mistyped first. Endless."""
    random = Random(f"{seed}/person/{number}")  # noqa: S311 reproducible on purpose
    user, ip = f"person-{number:02}", f"192.0.2.{number + 1}"
    login_s, search_s = random.uniform(0, 5), random.expovariate(PERSON_SEARCHES_PER_S)
    while True:
        while search_s < login_s:
            yield Step(search_s, "person", user, ip, "search", random.choice(_WORDS))
            search_s += random.expovariate(PERSON_SEARCHES_PER_S)
        is_mistyped = random.random() < _WRONG_PASSWORD_SHARE
        yield Step(login_s, "person", user, ip, "login", "oops" if is_mistyped else password_of(user))
        login_s += 2 if is_mistyped else random.uniform(60, 120)


def play_job() -> Iterator[Step]:
    """Yield a job's bursts of searches: two within its limit, then one beyond it. Endless."""
    for burst in count():
        size = BIG_BURST if burst % 3 == 2 else BURST
        for number in range(size):
            at_s = 1 + burst * BURST_EVERY_S + number * 0.002
            yield Step(at_s, "job", JOB, JOB_IP, "search", f"report {burst} page {number}")


def play_office(seed: int) -> Iterator[Step]:
    """Yield an office's logins: many users behind one address, everybody once in the morning, then rarely. Endless."""
    random = Random(f"{seed}/office")  # noqa: S311 reproducible on purpose
    for round_number in count():
        arrivals = sorted((random.uniform(0, 90), number) for number in range(OFFICE_PEOPLE))
        for after_s, number in arrivals:
            user = f"office-{number:02}"
            yield Step(round_number * 90 + after_s, "office", user, OFFICE_IP, "login", password_of(user))


def play_brute_forcer(seed: int) -> Iterator[Step]:
    """Yield one user's account tried with many passwords. Endless."""
    random = Random(f"{seed}/brute_forcer")  # noqa: S311 reproducible on purpose
    at_s = 3.0
    while True:
        at_s += random.expovariate(BRUTE_FORCE_PER_S)
        yield Step(at_s, "brute_forcer", VICTIM, BRUTE_FORCER_IP, "login", f"guess-{random.randrange(10**6)}")


def play_stuffer(seed: int) -> Iterator[Step]:
    """Yield stolen pairs of user and password tried from one address, each user once. Endless."""
    random = Random(f"{seed}/stuffer")  # noqa: S311 reproducible on purpose
    at_s = 5.0
    for number in count():
        at_s += random.expovariate(STUFFING_PER_S)
        yield Step(at_s, "stuffer", f"leaked-{number:05}", STUFFER_IP, "login", f"leak-{random.randrange(10**6)}")


def play_scraper() -> Iterator[Step]:
    """Yield steady searches, always below the limit: what a rate limit alone never stops. Endless."""
    for number in count():
        yield Step(number / SCRAPER_PER_S, "scraper", SCRAPER, SCRAPER_IP, "search", f"page {number}")


def play_everybody(seed: int) -> Iterator[Step]:
    """Yield the steps of all actors in the order of their times. Endless; the same for the same seed."""
    people = (play_person(seed, number) for number in range(PEOPLE))
    return heapq.merge(*people, play_job(), play_office(seed), play_brute_forcer(seed), play_stuffer(seed), play_scraper())
