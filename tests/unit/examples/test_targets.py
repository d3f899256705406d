import grpc
import pytest
from aiohttp.test_utils import TestServer

from enforcer.client import Decision
from examples.actors import Step
from examples.backend import create_app, open_client
from examples.targets import GrpcTarget, HttpTarget, TargetError, explain, open_target
from ratchet.v1 import enforcer_pb2
from tests.unit.examples.fake_enforcer import run_fake_enforcer
from tests.unit.examples.test_backend import ALLOW, BAN, DENY

STEPS = {
    "login": Step(0, "person", "alice", "192.0.2.1", "login", "wrong"),
    "search": Step(0, "person", "alice", "192.0.2.1", "search", "tea"),
}
ANSWERS = [
    (ALLOW, "allow", ""),
    (DENY, "deny", "per_user"),
    (BAN, "ban", "brute_force"),
    (grpc.StatusCode.INVALID_ARGUMENT, "error", "HTTP 400"),
    (grpc.StatusCode.UNAVAILABLE, "open", "unavailable"),
]


@pytest.mark.parametrize("action", STEPS)
@pytest.mark.parametrize(("decision", "outcome", "why"), ANSWERS)
async def test_backend_answers_are_read_back(
    action: str, decision: enforcer_pb2.CheckResponse | grpc.StatusCode, outcome: str, why: str
) -> None:
    async with run_fake_enforcer(lambda _: decision) as enforcer:
        server = TestServer(create_app(open_client(enforcer, 5)))
        await server.start_server()
        async with HttpTarget(str(server.make_url("/"))) as target:
            answer = await target.send(STEPS[action])
        await server.close()
    assert (answer.outcome, answer.why, answer.who, answer.action) == (outcome, why, "alice", action)


async def test_backend_that_is_away_is_an_error(unused_tcp_port: int) -> None:
    async with HttpTarget(f"http://127.0.0.1:{unused_tcp_port}") as target:
        assert (await target.send(STEPS["search"])).outcome == "error"


@pytest.mark.parametrize(
    ("decision", "outcome", "why"), [(ALLOW, "allow", ""), (DENY, "deny", "login:per_user"), (BAN, "ban", "brute_force")]
)
async def test_enforcer_answers_are_read(decision: enforcer_pb2.CheckResponse, outcome: str, why: str) -> None:
    async with run_fake_enforcer(lambda _: decision) as enforcer, GrpcTarget(enforcer) as target:
        answer = await target.send(STEPS["login"])
    assert (answer.outcome, answer.why) == (outcome, why)


async def test_no_decision_is_an_error_that_says_why() -> None:
    async with run_fake_enforcer(lambda _: grpc.StatusCode.UNAVAILABLE) as enforcer, GrpcTarget(enforcer) as target:
        answer = await target.send(STEPS["login"])
    assert (answer.outcome, answer.why) == ("error", "no decision: unavailable: as told")


@pytest.mark.parametrize("address", ["", "127.0.0.1:80", "ftp://127.0.0.1", "http://", "grpc:127.0.0.1:50050"])
def test_address_that_is_no_target_is_refused(address: str) -> None:
    with pytest.raises(TargetError, match="neither"):
        open_target(address)


def test_throttled_denial_is_explained_by_its_reason() -> None:
    assert explain(Decision("deny", "throttled")) == "throttled"
