from bench.generator import Load
from bench.measure import Bound, Counters, compare, judge_abusers
from bench.processes import Usage
from tests.unit.bench.samples import make_measurement, make_report

BOUND = Bound(capacity=5, refill_per_s=2.0)


def test_what_capacity_and_refill_allow_is_not_too_much() -> None:
    assert judge_abusers(make_report(elapsed_s=10.0, abuser_ok=(25, 3)), BOUND) == 0


def test_the_worst_abuser_counts() -> None:
    assert judge_abusers(make_report(elapsed_s=10.0, abuser_ok=(3, 27, 26)), BOUND) == 2


def test_without_abusers_or_bound_there_is_nothing_to_judge() -> None:
    assert judge_abusers(make_report(), BOUND) is None
    assert judge_abusers(make_report(abuser_ok=(9,)), None) is None


def test_everything_that_is_no_decision_is_a_failure() -> None:
    assert make_measurement(1.0).failed == 2 + 3 + 1


def test_cpu_is_the_difference_shared_among_the_decisions() -> None:
    before = Counters(server=Usage(1.0, 50), kafka=Usage(2.0, 0), redis=None, load_cpu_s=7.0)
    after = Counters(server=Usage(1.5, 70), kafka=Usage(2.1, 0), redis=None, load_cpu_s=7.25)
    seen = compare(before, after, Load(), make_report(decisions=10_000, elapsed_s=2.0), None)
    assert seen.server_cpu_us == 50.0
    assert seen.kafka_cpu_us is not None
    assert round(seen.kafka_cpu_us, 6) == 10.0
    assert seen.load_cpu_us == 25.0
    assert (seen.decisions_per_s, seen.server_busy) == (5000.0, 0.25)
    assert (seen.server_rss_start_bytes, seen.server_rss_end_bytes) == (50, 70)
    assert seen.redis_cpu_us is None
