"""The compact notation of fixtures."""

from __future__ import annotations

import pytest

from config.document import DocumentError, parse_document
from detector.fixtures import START_MS, Fixtures

DOCUMENT = """\
version: 1
rule: it
refusals: { subject: ip=203.0.113.7, action: login, policy: login, limit: per_ip }
fixtures:
  - name: a story
    events: [{ at: 0s, denied: 3, users: 2, times: 2, every: 5s }, { at: 1s, admitted: 4, limit: other }]
    verdicts: []
"""


def parse(text: str) -> Fixtures:
    return parse_document(text, Fixtures, name="fixtures.yaml").model


def test_events_become_folds_in_the_order_of_time_with_what_the_file_says_of_all() -> None:
    file = parse(DOCUMENT)
    folds = file.list_folds(file.fixtures[0])
    assert [(fold.last_ms - START_MS, fold.count, fold.admitted, fold.limit) for fold in folds] == [
        (0, 3, 0, "per_ip"),
        (1_000, 1, 4, "other"),
        (5_000, 3, 0, "per_ip"),
    ]
    assert {fold.subject for fold in folds} == {"ip=203.0.113.7"}


@pytest.mark.parametrize(("mark", "distinct"), [("", 4), (", same_users: true", 2)])
def test_users_are_others_with_each_event_unless_marked_as_the_same(mark: str, distinct: int) -> None:
    file = parse(DOCUMENT.replace("every: 5s", f"every: 5s{mark}"))
    folds = file.list_folds(file.fixtures[0])
    assert len({user for fold in folds for user in fold.users}) == distinct


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        ("at: 0s", "at: 0", ":6: fixtures[0].events[0].at: 0 is not a duration; write a whole number and a unit"),
        ("denied: 3", "denid: 3", ":6: fixtures[0].events[0].denid: unknown key; allowed are: at, denied, admitted, "),
        ("denied: 3", "denied: 0", ":6: fixtures[0].events[0].denied: input should be greater than or equal to 1, not 0"),
        ("ip=203.0.113.7", "alice", ":3: refusals.subject: 'alice' is no subject; write kind=value"),
        ("    verdicts: []\n", "", "fixtures[0].verdicts: is missing"),
        ("verdicts: []", "verdicts: [{ at: 0s, result: banned }]", ":7: fixtures[0].verdicts[0].result: input should be "),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_its_place_and_what_is_allowed(old: str, new: str, mistake: str) -> None:
    assert old in DOCUMENT
    with pytest.raises(DocumentError) as caught:
        parse(DOCUMENT.replace(old, new, 1))
    assert mistake in str(caught.value)
