"""The command line against a real enforcer: every example of its document runs, and exit codes tell programs what happened."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from devstack.stack import StackSpec, start
from enforcer.__main__ import app as enforcer_app
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, poll, run_enforcer
from topics.__main__ import app as topics_app

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "admin.md").read_text(encoding="utf-8")
EXAMPLES = [
    line.removeprefix("$ ") for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()
]


@pytest.fixture(scope="module")
def enforcer(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnforcerProcess]:
    # A document that is published stays in Redis, and enforcers of other tests would go by it.
    policies = (ROOT / "config" / "policies.yaml").read_text()
    folder = tmp_path_factory.mktemp("cli")
    access = folder / "access.yaml"
    access.write_text("version: 1\ncallers:\n" + "".join(
        f"  - {{ name: {name}, tokens: ['{hashlib.sha256(name.encode()).hexdigest()}'], roles: [{role}] }}\n"
        for name, role in (("carol", "admin"), ("backend", "check"))
    ))  # fmt: skip
    for name in ("carol", "backend"):
        (folder / name).write_text(f"{name}\n")
    options = ("--redis-timeout-ms", "1000", "--access", str(access))
    with (
        start(StackSpec(parts=frozenset({"redis"}))) as stack,
        run_enforcer(stack.redis_url, kafka_bootstrap, folder, *options, policies=policies) as enforcer,
        pytest.MonkeyPatch.context() as patch,
    ):
        enforcer.wait_for_redis()
        enforcer.wait_for_kafka()
        patch.setenv("RATCHET_TOKEN_FILE", str(folder / "carol"))
        yield enforcer


def run(address: str, *arguments: str, kafka: str = NOWHERE) -> Result:
    """Run one command as ``python`` would be given it, in this process: to start one takes longer than what it does."""
    option, module, *rest = arguments
    assert option == "-m"
    app = {"enforcer": enforcer_app, "topics": topics_app}[module]
    return CliRunner().invoke(app, rest, env={"RATCHET_ADDRESS": address, "KAFKA_BOOTSTRAP": kafka, "COLUMNS": "160"})


def admin(enforcer: EnforcerProcess, *arguments: str) -> Result:
    return run(enforcer.address, "-m", "enforcer", "admin", *arguments)


def test_every_example_of_the_document_runs_and_ends_in_the_audit(enforcer: EnforcerProcess, kafka_bootstrap: str) -> None:
    assert len(EXAMPLES) == 13
    said = ""
    for example in EXAMPLES:
        python, *arguments = shlex.split(example)
        assert python == "python"
        done = run(enforcer.address, *arguments, kafka=kafka_bootstrap)
        assert done.exit_code == 0, (example, done.stderr)
        said = done.stdout
    for told in ("reported by support", "it was her brother", "load test", "her launch", "the launch is over"):
        assert told in said
    assert "by carol" in said, "the actor is who the token says"


def test_repetition_with_the_printed_id_changes_nothing(enforcer: EnforcerProcess) -> None:
    command = ("impose", "user=bob", "--for", "1h", "--reason", "x", "-o", "json")
    first = admin(enforcer, *command)
    request_id = first.stderr.removeprefix("request id ").strip()
    again = admin(enforcer, *command, "--request-id", request_id)
    one, other = json.loads(first.stdout), json.loads(again.stdout)
    assert (one.pop("repeated_call"), other.pop("repeated_call")) == (False, True)
    assert one == other


def test_exit_codes_and_messages_tell_what_happened(enforcer: EnforcerProcess) -> None:
    refused = admin(enforcer, "lift", "card=1", "--reason", "x", "--request-id", "0123456789abcdef")
    assert refused.exit_code == 1
    assert refused.stderr.splitlines() == [
        "request id 0123456789abcdef",
        "INVALID_ARGUMENT: subject.kind is 'card'; the policies in force declare user, ip",
    ]
    assert admin(enforcer, "lift", "user=bob").exit_code == 2
    token_file = str(Path(os.environ["RATCHET_TOKEN_FILE"]).with_name("backend"))
    denied = run(enforcer.address, "-m", "enforcer", "admin", "--token-file", token_file, "bans")
    assert denied.exit_code == 1
    assert denied.stderr == "PERMISSION_DENIED: caller backend lacks the role admin; it has: check\n"
    away = run(NOWHERE, "-m", "enforcer", "admin", "lift", "user=bob", "--reason", "x")
    assert away.exit_code == 3
    assert away.stderr.splitlines()[-1] == "it may have been done: repeat it with --request-id and the id above"
    nobody = run(NOWHERE, "-m", "enforcer", "admin", "bans")
    assert nobody.exit_code == 3
    assert "request-id" not in nobody.stderr


def test_document_is_shown_and_one_that_is_published_is_in_force_within_a_second(
    enforcer: EnforcerProcess, tmp_path: Path
) -> None:
    text = (ROOT / "config" / "policies.yaml").read_text()
    shown = admin(enforcer, "policies")
    assert (shown.exit_code, shown.stdout) == (0, text)
    file = tmp_path / "policies.yaml"
    file.write_text(text.replace("capacity: 50,", "capacity: 51,"))
    done = admin(enforcer, "reload", str(file), "--reason", "more searches", "-o", "json")
    answer = json.loads(done.stdout)

    def look() -> bool:
        in_force = json.loads(admin(enforcer, "policies", "-o", "json").stdout)
        assert in_force["rejected"] == []
        return (in_force["version"], in_force["generation"]) == (answer["version"], answer["generation"])

    poll(look, "the published document", 1.0)
    assert admin(enforcer, "policies").stdout == file.read_text()
    file.write_text("version: 1\n")
    refused = admin(enforcer, "reload", str(file), "--reason", "x")
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[1].startswith("FAILED_PRECONDITION: document:1: ")
