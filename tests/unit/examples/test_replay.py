import asyncio
import gzip
from pathlib import Path

import pytest
from typer.testing import CliRunner

from examples import replay
from examples.access_log import name_action_by_kind
from examples.replay_plan import plan_replay
from examples.targets import open_witness
from ratchet.v1 import enforcer_pb2
from tests.unit.examples.fake_enforcer import run_fake_enforcer
from tests.unit.examples.test_backend import ALLOW, DENY

LINE = '203.0.113.7 - - [17/May/2015:10:00:{:02} +0000] "GET /a HTTP/1.1" 200 1\n'


@pytest.fixture
def app() -> object:
    import typer

    made = typer.Typer(add_completion=False)
    made.command()(replay.main)
    return made


def run(app: object, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)  # type: ignore[arg-type]
    return result.exit_code, result.output


@pytest.mark.parametrize("is_packed", [False, True])
def test_log_is_read_packed_or_not_and_only_newlines_end_a_line(tmp_path: Path, is_packed: bool) -> None:
    content = "a\u2028b\nc\xff\n".encode() + b"\xfe\n"
    path = tmp_path / "log"
    path.write_bytes(gzip.compress(content) if is_packed else content)
    with replay.open_log(path) as lines:
        assert list(lines) == ["a\u2028b\n", "c\xff\n", "\ufffd\n"]


async def test_every_request_is_asked_once_with_the_mark_of_the_replay() -> None:
    asked: list[enforcer_pb2.CheckRequest] = []

    def decide(request: enforcer_pb2.CheckRequest) -> enforcer_pb2.CheckResponse:
        asked.append(request)
        return ALLOW if len(asked) < 3 else DENY

    plan = plan_replay([LINE.format(0)] * 5, action_of=name_action_by_kind, limit=10)
    async with run_fake_enforcer(decide) as address, open_witness(address) as client:
        tally, pace = await replay.replay(plan, client, speed=None, concurrency=1, mark="m")
    assert (pace.sent, tally.outcomes["allow"], tally.outcomes["deny"]) == (5, 2, 3)
    assert [dict(request.attributes) for request in asked] == [{"replay": "m", "ip": "203.0.113.7"}] * 5


async def test_replay_ends_when_it_is_stopped() -> None:
    stop = asyncio.Event()
    stop.set()
    plan = plan_replay([LINE.format(0)] * 5, action_of=name_action_by_kind, limit=10)
    async with run_fake_enforcer(lambda _: ALLOW) as address, open_witness(address) as client:
        _, pace = await replay.replay(plan, client, speed=1.0, concurrency=1, mark="m", stop=stop)
    assert (pace.sent, pace.stopped_early) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--speed", "fast"], "max"),
        (["--speed", "0"], "above 0"),
        (["--speed", "nan"], "above 0"),
        (["--action-by", "colour"], "path-prefix"),
        (["--action-by", "="], "path-prefix"),
    ],
)
def test_wrong_option_says_what_is_right(app: object, tmp_path: Path, arguments: list[str], said: str) -> None:
    code, output = run(app, str(tmp_path / "log"), *arguments)
    assert code == 2
    assert said in output


def test_missing_file_is_said(app: object, tmp_path: Path) -> None:
    code, output = run(app, str(tmp_path / "log"))
    assert code == 2
    assert "cannot read" in output


def test_broken_archive_is_said(app: object, tmp_path: Path) -> None:
    (tmp_path / "log.gz").write_bytes(gzip.compress(LINE.encode() * 100)[:-20])
    code, output = run(app, str(tmp_path / "log.gz"))
    assert code == 2
    assert "cannot read" in output


def test_file_that_is_no_log_is_said_with_the_first_lines(app: object, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x,y\n1,2\n")
    code, output = run(app, str(tmp_path / "log"))
    assert code == 2
    assert "line 1" in output
    assert "nothing to replay" in output


def test_nobody_at_the_target_is_said(
    app: object, tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "REACHABLE_WITHIN_S", 0.2)
    (tmp_path / "log").write_text(LINE.format(0))
    code, output = run(app, str(tmp_path / "log"), "--target", f"127.0.0.1:{unused_tcp_port}")
    assert code == 3
    assert "make run" in output
