"""No content of Envoy's requests lets one pass that would be refused, on either transport: raw bytes to real servers.

Envoy lets a request through when the rate limit service answers with an error, so an error is as bad as a wrong OK.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import grpc
import pytest

from ratchet.envoy import descriptor_pb2, rls_pb2
from tests.integration.enforcer.enforcer_under_test import NOWHERE, WITHIN_S, EnforcerProcess, run_enforcer

OK, OVER_LIMIT = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT
METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"


@pytest.fixture(scope="module", params=["native", "grpcio"])
def enforcer(
    request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EnforcerProcess]:
    folder = tmp_path_factory.mktemp(request.param)
    with run_enforcer(redis_url, NOWHERE, folder, "--transport", request.param, "--redis-timeout-ms", "1000") as one:
        one.wait_for_redis()
        yield one


def send(enforcer: EnforcerProcess, payload: bytes) -> rls_pb2.RateLimitResponse:
    call: grpc.UnaryUnaryMultiCallable[bytes, rls_pb2.RateLimitResponse] = enforcer.channel.unary_unary(
        METHOD, response_deserializer=rls_pb2.RateLimitResponse.FromString
    )
    return call(payload, timeout=WITHIN_S)


def pack(number: int, content: bytes) -> bytes:
    length = len(content)
    varint = bytearray()
    while length >= 0x80:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((number << 3 | 2,)) + bytes(varint) + bytes((length,)) + content


def write_request(value: bytes, *, key: bytes = b"user", domain: bytes = b"login", tail: bytes = b"") -> bytes:
    """A request of one descriptor, whose texts may be any bytes."""
    return pack(1, domain) + pack(2, pack(1, pack(1, key) + pack(2, value)) + tail)


def write_varint_field(number: int, value: int) -> bytes:
    out = bytearray((number << 3,))
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"a" * 1025, id="longer than an id may be"),
        pytest.param(b"a" * 1_000_000, id="a megabyte"),
        pytest.param(b"\xff\xfe\xfd", id="no text"),
        pytest.param(b"ann\xc3", id="a text cut within a letter"),
        pytest.param(b"\xed\xa0\x80", id="half of a pair"),
        pytest.param(b"\x00", id="zero"),
        pytest.param(b"a}{b:c d\r\n%", id="what ends keys and lines"),
        pytest.param("e\u0301".encode(), id="a combined letter"),
    ],
)
def test_odd_value_is_refused_after_as_many_requests_as_any_other(enforcer: EnforcerProcess, value: bytes) -> None:
    payload = write_request(uuid4().hex.encode() + value)
    assert [send(enforcer, payload).overall_code for _ in range(7)] == [OK] * 5 + [OVER_LIMIT] * 2


def test_odd_domain_is_limited_by_the_catch_all(enforcer: EnforcerProcess) -> None:
    for domain in (b"\xff", b"d" * 5000, b"", b"a b"):
        response = send(enforcer, write_request(uuid4().hex.encode(), domain=domain))
        assert (response.overall_code, response.statuses[0].current_limit.name) == (OK, "default:per_user")


@pytest.mark.parametrize("hits", [6, 2**31, 2**32 - 1])
def test_more_hits_than_a_bucket_holds_are_refused(enforcer: EnforcerProcess, hits: int) -> None:
    payload = write_request(uuid4().hex.encode())
    assert send(enforcer, payload + write_varint_field(3, hits)).overall_code == OVER_LIMIT
    assert [send(enforcer, payload).overall_code for _ in range(6)] == [OK] * 5 + [OVER_LIMIT]


@pytest.mark.parametrize("hits", [6, 2**53, 2**63, 2**64 - 1])
def test_more_hits_of_a_descriptor_than_a_bucket_holds_are_refused(enforcer: EnforcerProcess, hits: int) -> None:
    user = uuid4().hex.encode()
    assert send(enforcer, write_request(user, tail=pack(3, write_varint_field(1, hits)))).overall_code == OVER_LIMIT
    assert [send(enforcer, write_request(user)).overall_code for _ in range(6)] == [OK] * 5 + [OVER_LIMIT]


def test_descriptors_that_name_nothing_open_no_way_past_those_that_do(enforcer: EnforcerProcess) -> None:
    empty = pack(2, b"") + pack(2, pack(1, b""))
    payload = write_request(uuid4().hex.encode()) + empty
    responses = [send(enforcer, payload) for _ in range(6)]
    assert [response.overall_code for response in responses] == [OK] * 5 + [OVER_LIMIT]
    assert [status.code for status in responses[-1].statuses] == [OVER_LIMIT, OK, OK]


@pytest.mark.parametrize("descriptors", [513, 20_000])
def test_thousands_of_descriptors_are_refused(enforcer: EnforcerProcess, descriptors: int) -> None:
    entry = descriptor_pb2.RateLimitDescriptor.Entry
    request = rls_pb2.RateLimitRequest(
        domain="login",
        descriptors=[
            descriptor_pb2.RateLimitDescriptor(entries=[entry(key="user", value=f"u{n}")]) for n in range(descriptors)
        ],
    )
    response = send(enforcer, request.SerializeToString())
    assert response.overall_code == OVER_LIMIT
    assert [status.code for status in response.statuses] == [OVER_LIMIT] * descriptors


def test_thousands_of_entries_are_refused(enforcer: EnforcerProcess) -> None:
    payload = pack(1, b"login") + pack(2, pack(1, pack(1, b"user") + pack(2, b"eve")) * 20_000)
    assert send(enforcer, payload).overall_code == OVER_LIMIT


def test_refund_gives_back_no_more_than_the_bucket_holds(enforcer: EnforcerProcess) -> None:
    user = uuid4().hex.encode()
    refund = write_request(user, tail=pack(3, write_varint_field(1, 2**64 - 1)) + write_varint_field(4, 1))
    assert [send(enforcer, write_request(user)).overall_code for _ in range(3)] == [OK] * 3
    assert send(enforcer, refund).overall_code == OK
    assert [send(enforcer, write_request(user)).overall_code for _ in range(6)] == [OK] * 5 + [OVER_LIMIT]


def test_override_is_counted_apart_and_refuses_as_it_says(enforcer: EnforcerProcess) -> None:
    user = uuid4().hex.encode()
    override = pack(2, write_varint_field(1, 2) + write_varint_field(2, 3))
    responses = [send(enforcer, write_request(user, tail=override)) for _ in range(3)]
    assert [response.overall_code for response in responses] == [OK, OK, OVER_LIMIT]
    assert send(enforcer, write_request(user)).statuses[0].limit_remaining == 4
    none = pack(2, write_varint_field(2, 3))
    assert send(enforcer, write_request(user, tail=none)).overall_code == OVER_LIMIT
