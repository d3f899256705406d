from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable

import pytest

from devstack.ports import LOOPBACK, PortChooser
from topics.ensure import ensure
from topics.events import Evidence, VerdictEvent

Write = Callable[..., Awaitable[None]]
END_WITHIN_S = 30


def command(bootstrap: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "topics", *arguments],
        env=os.environ | {"KAFKA_BOOTSTRAP": bootstrap, "PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(bootstrap: str, *arguments: str) -> tuple[int, str, str]:
    process = command(bootstrap, *arguments)
    out, err = process.communicate(timeout=END_WITHIN_S)
    return process.returncode, out, err


def verdict(subject: str) -> VerdictEvent:
    return VerdictEvent(
        verdict_id="5f0c",
        subject=subject,
        penalty="ban",
        result="applied",
        rule="brute_force",
        rung=1,
        at_ms=1_795_516_862_123,
        applied_at_ms=1_795_516_862_200,
        score_after=1000,
        scope=("login",),
        ban_until_ms=1_795_516_922_123,
        evidence=Evidence(
            count=10, threshold=10, window_ms=60_000, first_ms=1, last_ms=2, partition=0, offset=0, source="a", n=1
        ),
    )


async def test_why_a_user_was_banned_is_one_line(kafka_bootstrap: str, write: Write) -> None:
    await ensure(kafka_bootstrap)
    user = f"al ice {uuid.uuid4().hex}"
    subject = f"user={user.replace(' ', '%20')}"
    await write("verdicts", None, verdict(subject), verdict("user=other"), key=subject.encode())
    code, out, err = run(kafka_bootstrap, "tail", "verdicts", "--subject", f"user={user}", "--no-follow")
    assert (code, err) == (0, "")
    assert out == (
        f"2026-11-24 10:41:02.123Z {subject} banned from login until 2026-11-24 10:42:02.123Z (60 s), rule brute_force, "
        "rung 1, 10 denials in 60 s against a threshold of 10 (strikes 0 to 1, verdict 5f0c)\n"
    )


async def test_following_ends_cleanly_on_interrupt(kafka_bootstrap: str) -> None:
    await ensure(kafka_bootstrap)
    process = command(kafka_bootstrap, "tail", "verdicts", "--user", uuid.uuid4().hex)
    assert process.stderr is not None
    assert "waiting for more, Ctrl-C ends" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=END_WITHIN_S)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("records", [0, 600])
async def test_following_ends_cleanly_when_the_reader_of_the_pipe_goes(
    kafka_bootstrap: str, write: Write, records: int
) -> None:
    await ensure(kafka_bootstrap)
    user = uuid.uuid4().hex
    if records:
        # Far more than a pipe holds: the writer is stopped in mid-history.
        await write("verdicts", 0, *[verdict(f"user={user}")] * records)
    process = command(kafka_bootstrap, "tail", "verdicts", "--user", user)
    assert process.stdout is not None
    assert process.stderr is not None
    if records:
        assert user in process.stdout.readline()
    else:
        assert "waiting" in process.stderr.readline()
    process.stdout.close()
    assert process.wait(timeout=END_WITHIN_S) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


async def test_audit_answers_programs_and_its_exit_code_is_its_finding(kafka_bootstrap: str) -> None:
    await ensure(kafka_bootstrap)
    code, out, _ = run(kafka_bootstrap, "audit", "denials", "--json")
    report = json.loads(out)
    assert report["topic"] == "denials"
    assert code == int(report["is_faulty"])


def test_ensure_tells_what_is_there(kafka_bootstrap: str) -> None:
    run(kafka_bootstrap, "ensure")
    code, out, err = run(kafka_bootstrap, "ensure")
    assert (code, err) == (0, "")
    assert "decisions: there, 8 partitions" in out
    code, out, _ = run(kafka_bootstrap, "ensure", "--json")
    assert json.loads(out)["is_sound"]


@pytest.mark.parametrize("arguments", [("ensure",), ("audit", "decisions"), ("tail", "verdicts")])
def test_an_absent_kafka_is_one_line_and_exit_3(arguments: tuple[str, ...]) -> None:
    address = f"{LOOPBACK}:{PortChooser().choose()}"
    code, out, err = run(address, *arguments)
    assert (code, out) == (3, "")
    assert err.startswith(f"Kafka does not answer at {address} (")
    assert err.count("\n") == 1
