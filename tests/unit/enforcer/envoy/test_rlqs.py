"""Messages of Envoy's quota service."""

from __future__ import annotations

from enforcer.envoy.quota import ALLOW_ALL, DENY_ALL, Assignment
from enforcer.envoy.quota_keeper import Told
from enforcer.envoy.quota_usage import Usage
from enforcer.envoy.rlqs import read_usage, write_action, write_strategy
from ratchet.envoy import raw_pb2, rlqs_pb2, strategy_pb2

_Usage = rlqs_pb2.RateLimitQuotaUsageReports.BucketQuotaUsage


def read(usage: _Usage) -> Usage | None:
    """Read what Envoy wrote."""
    return read_usage(raw_pb2.RawUsage.FromString(usage.SerializeToString()))


def write(told: Told | None) -> rlqs_pb2.RateLimitQuotaResponse.BucketAction:
    """What Envoy reads."""
    return write_action((("user", "alice"),), told)


def test_a_bucket_is_known_by_its_keys_and_values_in_any_order() -> None:
    first = _Usage(bucket_id=rlqs_pb2.BucketId(bucket={"user": "alice", "country": "pt"}), num_requests_allowed=3)
    second = _Usage(bucket_id=rlqs_pb2.BucketId(bucket={"country": "pt", "user": "alice"}), num_requests_denied=2)
    bucket_id = (("country", "pt"), ("user", "alice"))
    assert [read(first), read(second)] == [Usage(bucket_id, 3, 0), Usage(bucket_id, 0, 2)]


def test_counts_stay_exact_in_events() -> None:
    endless = _Usage(bucket_id=rlqs_pb2.BucketId(bucket={"user": "alice"}), num_requests_allowed=2**64 - 1)
    assert read(endless) == Usage((("user", "alice"),), 2**53 - 1, 0)


def test_a_bucket_without_an_id_is_left_out() -> None:
    assert read(_Usage(num_requests_allowed=3)) is None


def test_every_strategy_is_explicit() -> None:
    allow, deny = write_strategy(ALLOW_ALL), write_strategy(DENY_ALL)
    assert allow.WhichOneof("strategy") == deny.WhichOneof("strategy") == "blanket_rule"
    assert allow.blanket_rule == strategy_pb2.RateLimitStrategy.ALLOW_ALL
    assert deny.blanket_rule == strategy_pb2.RateLimitStrategy.DENY_ALL


def test_a_bucket_is_told_its_terms_and_how_long_they_hold() -> None:
    action = write(Told(Assignment("bucket", 20, 1000, 50), 15))
    assert dict(action.bucket_id.bucket) == {"user": "alice"}
    assigned = action.quota_assignment_action
    assert assigned.assignment_time_to_live.seconds == 15
    bucket = assigned.rate_limit_strategy.token_bucket
    assert (bucket.max_tokens, bucket.tokens_per_fill.value, bucket.fill_interval.seconds) == (20, 1000, 50)


def test_a_bucket_is_abandoned() -> None:
    assert write(None).WhichOneof("bucket_action") == "abandon_action"


def test_a_bucket_whose_id_is_no_text_is_left_out() -> None:
    for key, value in ((b"user", b"\xff"), (b"\xff", b"alice")):
        entry = raw_pb2.RawEntry(key=key, value=value)
        assert read_usage(raw_pb2.RawUsage(bucket_id=raw_pb2.RawBucketId(bucket=[entry]))) is None
