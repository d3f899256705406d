import pytest

from examples.access_log import name_action_by_kind
from examples.replay_plan import SHOWN_MALFORMED, ReplayPlan, plan_replay


def line(second: int, host: str = "203.0.113.7", user: str = "-", minute: int = 0) -> str:
    return f'{host} - {user} [17/May/2015:10:{minute:02}:{second:02} +0000] "GET /a HTTP/1.1" 200 1\n'


def plan(*lines: str, limit: int = 100, longest_gap_s: float | None = None) -> ReplayPlan:
    return plan_replay(lines, action_of=name_action_by_kind, limit=limit, longest_gap_s=longest_gap_s)


def test_requests_keep_the_pace_of_the_log() -> None:
    assert [at_s for at_s, _ in plan(line(5), line(7), line(7), line(30)).timed] == [0, 2, 2, 25]


def test_requests_are_put_in_the_order_of_their_times_and_stay_in_the_log_s_order_within_one() -> None:
    made = plan(line(5), line(9, "192.0.2.1"), line(5, "192.0.2.2"))
    assert [(at_s, request.user) for at_s, request in made.timed] == [(0, "203.0.113.7"), (0, "192.0.2.2"), (4, "192.0.2.1")]
    assert made.out_of_order == 1


def test_silences_are_shortened_when_asked_for() -> None:
    made = plan(line(0), line(0, minute=50), line(2, minute=50), longest_gap_s=10)
    assert [at_s for at_s, _ in made.timed] == [0, 10, 12]
    assert (made.span_s, made.takes_s, made.cut_s) == (3002, 12, 2990)


def test_user_is_the_authenticated_one_else_the_address_else_the_host_name() -> None:
    made = plan(line(0, user="alice"), line(0, "2001:db8::9"), line(0, "crawler.example"))
    users = [(request.user, request.ip) for _, request in made.timed]
    assert users == [("alice", "203.0.113.7"), ("2001:db8::/64", "2001:db8::/64"), ("crawler.example", "")]


def test_user_that_an_enforcer_would_refuse_for_its_length_is_cut_between_letters() -> None:
    (_, request), *_ = plan(line(0, user="ü" * 600)).timed
    assert request.user == "ü" * 512


def test_malformed_lines_are_counted_and_the_first_shown_with_their_numbers() -> None:
    made = plan(line(0), "nonsense", line(1), *["bad"] * 50)
    assert (made.lines, made.malformed, len(made.timed)) == (53, 51, 2)
    assert len(made.shown) == SHOWN_MALFORMED
    assert made.shown[0].line_number == 2


@pytest.mark.parametrize(("lines", "is_limited"), [(2, False), (3, True)])
def test_limit_is_said_only_when_it_left_something_out(lines: int, is_limited: bool) -> None:
    made = plan(*[line(0)] * lines, limit=2)
    assert (len(made.timed), made.is_limited) == (2, is_limited)


def test_empty_log_makes_an_empty_plan() -> None:
    assert plan() == ReplayPlan()
