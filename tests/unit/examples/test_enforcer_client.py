import grpc
import pytest

from examples.enforcer_client import CheckRefusedError, EnforcerAwayError, EnforcerClient
from ratchet.v1 import enforcer_pb2
from tests.unit.examples.fake_enforcer import run_fake_enforcer


def fail_with(status: grpc.StatusCode, calls: list[enforcer_pb2.CheckRequest]):  # type: ignore[no-untyped-def] # noqa: ANN201
    def decide(request: enforcer_pb2.CheckRequest) -> grpc.StatusCode:
        calls.append(request)
        return status

    return decide


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_enforcer_in_trouble_is_away_and_not_asked_again(status: grpc.StatusCode) -> None:
    calls: list[enforcer_pb2.CheckRequest] = []
    async with run_fake_enforcer(fail_with(status, calls)) as address, EnforcerClient(address, timeout_s=5) as client:
        with pytest.raises(EnforcerAwayError):
            await client.check(user="u", action="a", attributes={})
    assert len(calls) == 1


async def test_wrong_question_is_no_absence() -> None:
    calls: list[enforcer_pb2.CheckRequest] = []
    status = grpc.StatusCode.INVALID_ARGUMENT
    async with run_fake_enforcer(fail_with(status, calls)) as address, EnforcerClient(address, timeout_s=5) as client:
        with pytest.raises(CheckRefusedError, match="as told"):
            await client.check(user="", action="a", attributes={})


async def test_question_carries_what_it_was_given() -> None:
    asked: list[enforcer_pb2.CheckRequest] = []

    def decide(request: enforcer_pb2.CheckRequest) -> enforcer_pb2.CheckResponse:
        asked.append(request)
        return enforcer_pb2.CheckResponse(outcome=enforcer_pb2.OUTCOME_ALLOW)

    async with run_fake_enforcer(decide) as address, EnforcerClient(address, timeout_s=5) as client:
        await client.wait_until_reachable(5)
        await client.check(user="u", action="a", cost=0, attributes={"ip": "203.0.113.7"})
    assert asked == [enforcer_pb2.CheckRequest(user_id="u", action="a", cost=0, attributes={"ip": "203.0.113.7"})]


async def test_nobody_there_is_said_with_the_address(unused_tcp_port: int) -> None:
    async with EnforcerClient(f"127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(EnforcerAwayError, match=str(unused_tcp_port)):
            await client.wait_until_reachable(0.2)
