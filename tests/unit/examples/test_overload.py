from __future__ import annotations

from config.document import read_document
from detector.rules import Rules
from enforcer.limits.envoy_files import load_policies
from examples.overload import BURST_S, CALM_S, POLICIES, RULES, USUAL_PER_S, Course, describe, draw_courses, plan_load


def make_course(*good: int) -> Course:
    course = Course()
    for second, count in enumerate(good):
        for number in range(USUAL_PER_S):
            course.note(second, 0.02 if number < count else 0.4, is_served=True)
    return course


def test_documents_are_valid() -> None:
    assert read_document(RULES, Rules).model.find_throttle("search") is not None
    assert load_policies(POLICIES).version


def test_load_has_a_burst_and_is_in_order() -> None:
    times = [at_s for at_s, _ in plan_load(20)]
    assert times == sorted(times)
    assert len([at_s for at_s in times if 5 <= at_s < 6]) == USUAL_PER_S
    assert len([at_s for at_s in times if CALM_S <= at_s < CALM_S + BURST_S]) > USUAL_PER_S * BURST_S


def test_recovery_counts_from_the_end_of_the_burst() -> None:
    before, burst = [USUAL_PER_S] * CALM_S, [0] * BURST_S
    assert make_course(*before, *burst, *[0] * 10, *[USUAL_PER_S] * 20).find_recovery_s() == 10 - 1
    assert make_course(*before, *burst, *[0] * 30).find_recovery_s() is None
    assert "never came back" in describe("x", make_course(*before, *burst, *[0] * 30))


def test_refusals_are_no_service_and_seconds_without_any_have_no_p90() -> None:
    course = Course()
    course.note(1, 0.001, is_served=False)
    assert (course.list_p90_ms(), course.count_good(), course.refused) == ([0.0, 0.0], [0.0, 0.0], [0, 1])
    assert draw_courses({"a": course}).startswith("<svg")
