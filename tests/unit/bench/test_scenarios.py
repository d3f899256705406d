from pathlib import Path

from bench import scenarios
from bench.servers import POLICIES
from config.document import read_document
from enforcer.limits.policy import Policies
from enforcer.limits.policy_document import PoliciesDocument
from ratchet.envoy import rls_pb2


def compile_policies(file: Path = POLICIES) -> Policies:
    return Policies.compile(read_document(file, PoliciesDocument))


def test_each_scenario_meets_the_policy_that_it_is_named_for() -> None:
    policies = compile_policies()
    found = {}
    for scenario in scenarios.over_rls(1.0):
        request = rls_pb2.RateLimitRequest.FromString(bytes.fromhex(scenario.method.body_hex))
        found[scenario.name] = policies.match(request.domain)
    assert [(policy.name, len(policy.limits)) for policy in found.values()] == [("open", 1), ("tight", 1), ("three", 3)]


def test_the_bound_that_abusers_are_judged_by_is_that_of_their_limit() -> None:
    terms = compile_policies().match("bench_tight").limits[0].terms
    period_us = terms.period_ticks * terms.tick_us
    assert terms.capacity == scenarios.TIGHT.capacity
    assert terms.refill / period_us * 1e6 == scenarios.TIGHT.refill_per_s


def test_a_batch_asks_for_a_hundred_users() -> None:
    names = {scenario.name: scenario.method.decisions_per_call for scenario in scenarios.over_checks(1.0)}
    assert names == {scenarios.CHECK: 1, scenarios.BATCH: 100}


def test_the_open_loop_keeps_its_rate() -> None:
    scenario = scenarios.at_rate(5.0, 1234.5)
    assert (scenario.load.rate_per_s, scenario.load.duration_s) == (1234.5, 5.0)
