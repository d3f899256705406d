"""What rules refer to is read from the policies that ship, whatever else stands there."""

from __future__ import annotations

from pathlib import Path

from config.document import read_document
from config.policies_outline import PoliciesOutline


def test_shipped_policies_say_whom_their_limits_are_about() -> None:
    outline = read_document(Path("config/policies.yaml"), PoliciesOutline).model
    assert outline.subjects == ("user", "ip")
    assert outline.blames["login:per_ip"] == ("ip",)
    assert outline.blames["login:per_user"] == ("user",)
    assert outline.blames["default:per_user"] == ("user",), "an action is no subject"
    assert {policy.name: policy.match.action for policy in outline.policies}["search"] == "search"
