from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from enforcer.admin.admin_cli import app, make_change, parse_attribute, parse_duration_ms, parse_limit, parse_subject

HASHED = f"user=#{'0a' * 32}"


def test_subject_is_read_as_it_is_typed_and_as_it_is_printed() -> None:
    for text, kind, value in (
        ("user=alice", "user", "alice"),
        ("user=a=b", "user", "a=b"),
        ("user=é b", "user", "é b"),
        ("user=%C3%A9%20b", "user", "é b"),
        ("ip=2001:db8::/64", "ip", "2001:db8::/64"),
    ):
        subject = parse_subject(text)
        assert (subject.kind, subject.value, subject.name) == (kind, value, "")
    assert parse_subject(HASHED).name == HASHED


@pytest.mark.parametrize("text", ["alice", "=alice", "user=", ""])
def test_text_that_names_nobody_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no subject; write kind=value, as in user=alice"):
        parse_subject(text)


def test_limits_and_attributes_are_read_in_their_two_parts() -> None:
    assert parse_limit("login:per_user") == ("login", "per_user")
    assert parse_attribute("agent=curl=8") == ("agent", "curl=8")
    for text in ("login", ":per_user", "login:"):
        with pytest.raises(typer.BadParameter, match="names no limit; write policy:limit, as in login:per_user"):
            parse_limit(text)
    with pytest.raises(typer.BadParameter, match="is no attribute; write name=value"):
        parse_attribute("agent")


def test_durations_have_a_unit() -> None:
    assert [parse_duration_ms(text) for text in ("500ms", "10m", "7d")] == [500, 600_000, 604_800_000]
    with pytest.raises(typer.BadParameter):
        parse_duration_ms("10")


def test_each_change_has_a_new_id_that_is_printed_unless_it_is_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_change("because", ""), make_change("because", "")
    assert first.request_id != second.request_id
    assert 16 <= len(first.request_id) <= 64
    assert make_change("because", "mine").request_id == "mine"
    assert capsys.readouterr().err.splitlines() == [
        f"request id {first.request_id}", f"request id {second.request_id}", "request id mine"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lift", "user=alice"], "--reason"),
        (["impose", "user=alice", "--reason", "x"], "--for"),
        (["impose", "user=alice", "--reason", "x", "--for", "soon"], "soon"),
        (["lift", "alice", "--reason", "x"], "is no subject"),
        (["--tls-cert", "cert.pem", "bans"], "go together"),
        (["--token-file", "/nowhere/token", "bans"], "cannot be read"),
        (["bans", "-o", "yaml"], "yaml"),
    ],
)
def test_wrong_usage_is_told_before_anybody_is_asked(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert said in result.output
