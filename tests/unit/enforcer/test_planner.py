"""What a planner remembers."""

from __future__ import annotations

from enforcer.planner import MOST_RETURNING, MOST_TEMPLATES, Planner
from tests.unit.enforcer.builders import POLICIES_IN_FORCE, make_check, make_plan, make_policies


def test_checks_of_one_form_share_their_template_and_templates_are_bounded() -> None:
    planner = Planner(make_policies())
    one, other = planner.plan(make_check("alice", "a")), planner.plan(make_check("bob", "a"))
    assert one.template is other.template
    for number in range(MOST_TEMPLATES + 10):
        planner.plan(make_check("alice", f"action-{number}"))
    assert len(planner._templates) <= MOST_TEMPLATES
    assert planner.plan(make_check("alice", "a")).keys == one.keys


def test_refused_request_is_recalled_byte_for_byte_and_what_is_remembered_is_bounded() -> None:
    planner, plan = Planner(POLICIES_IN_FORCE), make_plan()
    for number in range(MOST_RETURNING + 10):
        planner.expect(b"%d" % number, plan)
    assert planner.recall(b"%d" % (MOST_RETURNING + 9)) is plan
    assert planner.recall(b"another") is None
    assert len(planner._returning) <= MOST_RETURNING
