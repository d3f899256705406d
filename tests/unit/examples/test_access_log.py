from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.access_log import (
    LONGEST_LINE,
    LogRecord,
    MalformedLine,
    name_action_by_kind,
    name_action_by_method,
    name_action_by_path_prefix,
    parse_line,
)

COMMON = '203.0.113.7 - - [17/May/2015:10:05:03 +0000] "GET /a/b?q=1 HTTP/1.1" 200 203023'
COMBINED = COMMON + ' "http://example.org/" "Mozilla/5.0 (X11)"'


def parse(line: str) -> LogRecord:
    record = parse_line(line, 7)
    assert isinstance(record, LogRecord), record
    return record


def request(method: str, target: str) -> LogRecord:
    return parse(COMMON.replace("GET /a/b?q=1", f"{method} {target}"))


def test_common_format_is_read() -> None:
    record = parse(COMMON)
    at_ms = int(datetime(2015, 5, 17, 10, 5, 3, tzinfo=UTC).timestamp()) * 1000
    assert record == LogRecord(7, at_ms, "203.0.113.7", None, "GET", "/a/b", "q=1", 200, 203023, "", "")


def test_combined_format_is_read() -> None:
    record = parse(COMBINED + "\n")
    assert (record.referer, record.user_agent) == ("http://example.org/", "Mozilla/5.0 (X11)")


def test_fields_behind_the_combined_format_are_passed_over() -> None:
    assert parse(COMBINED + ' "x-forwarded" 0.003').user_agent == "Mozilla/5.0 (X11)"


def test_line_whose_last_field_was_cut_is_still_a_request() -> None:
    record = parse(COMBINED[:-3])
    assert (record.path, record.user_agent) == ("/a/b", "")


def test_missing_size_is_none() -> None:
    assert parse(COMMON.replace(" 203023", " -")).size_bytes is None


@pytest.mark.parametrize("host", ["2001:db8::1", "crawl-66-249.example.org", "::ffff:203.0.113.7"])
def test_any_spelling_of_a_host_is_read(host: str) -> None:
    assert parse(COMMON.replace("203.0.113.7", host)).host == host


@pytest.mark.parametrize(("written", "user"), [("-", None), ('""', None), ("alice", "alice"), ("Alice B.", "Alice B.")])
def test_authenticated_user_is_read(written: str, user: str | None) -> None:
    assert parse(COMMON.replace(" - - ", f" - {written} ")).user == user


def test_time_zones_are_applied() -> None:
    assert parse(COMMON.replace("+0000", "+0200")).at_ms == parse(COMMON).at_ms - 7_200_000
    assert parse(COMMON.replace("+0000", "-0330")).at_ms == parse(COMMON).at_ms + 12_600_000


def test_escapes_are_undone() -> None:
    record = parse(COMBINED.replace("Mozilla/5.0 (X11)", r"a \"quoted\" one\\ \x41\t").replace("/a/b?q=1", r"/\"x\""))
    assert record.user_agent == 'a "quoted" one\\ A\t'
    assert record.path == '/"x"'


@pytest.mark.parametrize("sent", ["-", "", r"\x16\x03\x01\x02", "hello"])
def test_request_line_that_is_none_has_no_method(sent: str) -> None:
    record = parse(COMMON.replace("GET /a/b?q=1 HTTP/1.1", sent))
    assert (record.method, record.path) == ("-", "-")


def test_target_with_spaces_stays_whole() -> None:
    assert request("GET", "/a b c").path == "/a b c"


def test_request_of_http_0_9_is_read() -> None:
    assert parse(COMMON.replace(" HTTP/1.1", "")).path == "/a/b"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "empty"),
        ("\n", "empty"),
        ("not a log line", "not of the form"),
        (COMMON.replace("17/May", "31/Feb"), "no such time"),
        (COMMON.replace("17/May", "17/Foo"), "no such time"),
        (COMMON.replace('1.1" 200', '1.1" OK'), "not of the form"),
        (COMMON.replace('HTTP/1.1"', "HTTP/1.1"), "not of the form"),
        ("x" * (LONGEST_LINE + 1), "longer than"),
    ],
)
def test_malformed_line_says_where_and_why(line: str, why: str) -> None:
    found = parse_line(line, 7)
    assert isinstance(found, MalformedLine)
    assert found.line_number == 7
    assert found.why.startswith(why)
    assert len(found.excerpt) <= 120


@settings(deadline=None)
@given(st.text())
def test_no_line_raises(line: str) -> None:
    assert isinstance(parse_line(line, 1), LogRecord | MalformedLine)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=32, blacklist_categories=["Cs"])))
def test_any_user_agent_comes_back(agent: str) -> None:
    escaped = agent.replace("\\", "\\\\").replace('"', '\\"')
    assert parse(f'{COMMON} "x" "{escaped}"').user_agent == ("" if agent == "-" else agent)


@pytest.mark.parametrize(
    ("method", "target", "action"),
    [
        ("POST", "/login", "login"),
        ("POST", "/wp-login.php", "login"),
        ("POST", "/api/sessions", "login"),
        ("GET", "/login", "browse"),
        ("POST", "/comments", "browse"),
        ("GET", "/search?text=x", "search"),
        ("GET", "/?q=x", "search"),
        ("GET", "/?page=2&q=x", "search"),
        ("GET", "/research/x.html", "browse"),
    ],
)
def test_action_by_kind(method: str, target: str, action: str) -> None:
    assert name_action_by_kind(request(method, target)) == action


@pytest.mark.parametrize(
    ("target", "action"),
    [("/blog/x.html", "blog"), ("/", "root"), ("/a:b c/x", "a_b_c"), ("*", "root"), ("http://x.example/shop/1", "shop")],
)
def test_action_by_path_prefix_is_printable_ascii(target: str, action: str) -> None:
    assert name_action_by_path_prefix(request("GET", target)) == action


def test_action_by_method() -> None:
    assert name_action_by_method(request("HEAD", "/")) == "head"
    assert name_action_by_method(parse(COMMON.replace("GET /a/b?q=1 HTTP/1.1", "-"))) == "other"
