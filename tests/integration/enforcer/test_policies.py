"""What a document can say, in force on a real Redis: policies on top, tiers, overrides, shares, required subjects, modes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from redis import Redis

from enforcer.limits.policy import Limit, is_enforced_for
from lua.keys import join_subjects, name_abuse, name_attribute, name_bucket, name_subject
from ratchet.envoy import descriptor_pb2, rls_pb2
from ratchet.v1 import enforcer_pb2
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, run_enforcer
from tests.unit.enforcer.builders import EVERYTHING, make_policies

ALLOW, DENY = enforcer_pb2.OUTCOME_ALLOW, enforcer_pb2.OUTCOME_DENY
PATIENT = ("--redis-timeout-ms", "1000")
LIMIT: Limit = make_policies(EVERYTHING).match("search").limits[0]


@pytest.fixture(scope="module")
def enforcer(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnforcerProcess]:
    folder: Path = tmp_path_factory.mktemp("policies")
    with run_enforcer(redis_url, NOWHERE, folder, *PATIENT, policies=EVERYTHING) as one:
        one.wait_for_redis()
        yield one


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def name_user(*, is_enforced: bool) -> str:
    """A user of nobody else's, for whom the limit of ``search`` is enforced, or not yet."""
    while True:
        name = f"user-{uuid.uuid4()}"
        if is_enforced_for(LIMIT, name_subject("user", name)) == is_enforced:
            return name


def name_network() -> str:
    """An address of nobody else's."""
    return f"2001:db8:{uuid.uuid4().hex[:4]}:{uuid.uuid4().hex[:4]}::1"


def spend(enforcer: EnforcerProcess, user: str, count: int, action: str = "search", **attributes: str) -> list[int]:
    return [enforcer.check(user, action, attributes=attributes).outcome for _ in range(count)]


def read_remaining(enforcer: EnforcerProcess, user: str, action: str = "search", **attributes: str) -> dict[str, int]:
    answer = enforcer.check(user, action, cost=0, attributes=attributes)
    return {f"{limit.policy}:{limit.name}": limit.remaining for limit in answer.limits}


def ask_as_envoy(enforcer: EnforcerProcess, domain: str, **entries: str) -> rls_pb2.RateLimitResponse:
    entry = descriptor_pb2.RateLimitDescriptor.Entry
    descriptor = descriptor_pb2.RateLimitDescriptor(entries=[entry(key=key, value=value) for key, value in entries.items()])
    return enforcer.envoy_stub.ShouldRateLimit(rls_pb2.RateLimitRequest(domain=domain, descriptors=[descriptor]), timeout=30)


def test_policies_on_top_join_the_check_all_or_nothing(enforcer: EnforcerProcess) -> None:
    user = name_user(is_enforced=True)
    assert spend(enforcer, user, 11) == [ALLOW] * 10 + [DENY]
    assert read_remaining(enforcer, user) == {"everywhere:per_user": 490, "search:per_user": 0}
    assert read_remaining(enforcer, user, "else")["everywhere:per_user"] == 490
    refused = enforcer.check(user, "search")
    assert [(limit.policy, limit.refused) for limit in refused.limits if limit.refused] == [("search", True)]
    assert refused.policy == "search"


def test_tier_has_its_terms_and_a_bucket_of_its_own(enforcer: EnforcerProcess) -> None:
    user = name_user(is_enforced=True)
    assert spend(enforcer, user, 11, plan="silver") == [ALLOW] * 10 + [DENY]
    assert spend(enforcer, user, 100, plan="gold") == [ALLOW] * 100
    assert enforcer.check(user, "search", attributes={"plan": "gold"}).outcome == DENY
    assert read_remaining(enforcer, user, plan="PRO")["search:per_user"] == 1000


def test_override_of_one_subject_holds_for_nobody_else(enforcer: EnforcerProcess, redis: Redis) -> None:
    """The user of the override is the document's: other runs on this Redis may have spent of its buckets."""
    redis.delete(*redis.keys("rate_limit:{user=partner*") or ["none"])
    assert spend(enforcer, "partner", 50, plan="gold") == [ALLOW] * 50
    answer = enforcer.check("partner", "search", cost=0)
    assert [limit.capacity for limit in answer.limits] == [500, 1000]
    other = enforcer.check(name_user(is_enforced=True), "search", cost=0)
    assert [limit.capacity for limit in other.limits] == [500, 10]


def test_limit_in_shadow_mode_never_spends_what_is_enforced(enforcer: EnforcerProcess, redis: Redis) -> None:
    spared, other = name_user(is_enforced=False), name_user(is_enforced=True)
    answers = [enforcer.check(spared, "search") for _ in range(15)]
    assert [answer.outcome for answer in answers] == [ALLOW] * 15
    assert [answer.shadow for answer in answers] == [False] * 10 + [True] * 5
    assert [limit.shadow for limit in answers[0].limits] == [False, True]
    subject = f"{name_subject('user', spared)}&action=search"
    assert redis.exists(name_bucket(subject, "search", "per_user", is_shadow=True)) == 1
    assert redis.exists(name_bucket(subject, "search", "per_user")) == 0
    assert spend(enforcer, other, 11) == [ALLOW] * 10 + [DENY]
    assert redis.exists(name_bucket(f"{name_subject('user', other)}&action=search", "search", "per_user", is_shadow=True)) == 0


def test_mode_that_is_changed_finds_the_enforced_bucket_as_it_was(
    enforcer: EnforcerProcess, redis_url: str, tmp_path: Path
) -> None:
    user = name_user(is_enforced=True)
    assert spend(enforcer, user, 4) == [ALLOW] * 4
    with run_enforcer(redis_url, NOWHERE, tmp_path, *PATIENT, policies="mode: shadow\n" + EVERYTHING) as shadowed:
        shadowed.wait_for_redis()
        assert spend(shadowed, user, 30) == [ALLOW] * 30
        assert shadowed.check(user, "search").shadow
    assert read_remaining(enforcer, user)["search:per_user"] == 6


def test_check_that_lacks_a_required_subject_is_an_invalid_argument_and_envoy_is_over_limit(enforcer: EnforcerProcess) -> None:
    user = name_user(is_enforced=True)
    with pytest.raises(grpc.RpcError) as refused:
        enforcer.check(user, "login")
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "attributes: ip is absent; limit login:per_ip requires it"
    assert enforcer.check(user, "login", attributes={"ip": "203.0.113.7"}).outcome == ALLOW
    for _ in range(3):
        response = ask_as_envoy(enforcer, "login", user_id=user)
        assert response.overall_code == rls_pb2.RateLimitResponse.OVER_LIMIT
        assert [status.code for status in response.statuses] == [rls_pb2.RateLimitResponse.OVER_LIMIT]
    assert read_remaining(enforcer, user)["everywhere:per_user"] == 499


def test_domain_and_keys_of_envoy_spend_from_the_buckets_of_the_action(enforcer: EnforcerProcess) -> None:
    user, ip = name_user(is_enforced=True), name_network()
    response = ask_as_envoy(enforcer, "edge", **{"x-account": user, "remote_address": ip, "geo": "DE"})
    assert response.overall_code == rls_pb2.RateLimitResponse.OK
    assert read_remaining(enforcer, user, "login", ip=ip, country="DE") == {
        "everywhere:per_user": 499,
        "logins:per_country": 39,
        "login:per_ip": 29,
        "login:per_user": 4,
    }


def test_attribute_that_is_no_subject_has_buckets_and_is_told_to_nobody_else(enforcer: EnforcerProcess, redis: Redis) -> None:
    ip, countries = name_network(), ("DE", "FR")
    for country in countries:
        enforcer.check(name_user(is_enforced=True), "logout", cost=10, attributes={"ip": ip, "country": country})
    subjects = [join_subjects([f"country={country}", name_attribute("ip", ip)]) for country in countries]
    assert redis.exists(*[name_bucket(subject, "logins", "per_country") for subject in subjects]) == 2
    assert redis.exists(*[name_abuse(f"country={country}") for country in countries]) == 0
