"""The document: every way to be wrong, and its schema."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from config.document import DocumentError, parse_document, read_document
from enforcer.limits.policy_document import LimitDocument, OverrideDocument, PoliciesDocument, PolicyDocument, write_schema
from tests.unit.enforcer.builders import EVERYTHING, POLICIES

BAD_POLICIES = sorted((Path(__file__).parents[2] / "config" / "bad_policies").glob("*.yaml"))
SHIPPED = Path(__file__).parents[4] / "config"


@pytest.mark.parametrize("path", BAD_POLICIES, ids=lambda path: path.stem)
def test_bad_document_is_refused_with_the_message_beside_it(path: Path) -> None:
    expected = path.with_suffix(".txt").read_text().splitlines()
    with pytest.raises(DocumentError) as refused:
        parse_document(path.read_text(), PoliciesDocument, name=path.name)
    assert list(refused.value.problems) == expected


@pytest.mark.parametrize("text", [POLICIES, EVERYTHING], ids=["some", "everything"])
def test_good_document_is_accepted(text: str) -> None:
    parse_document(text, PoliciesDocument, name="policies.yaml")


def test_instant_may_be_quoted_and_of_any_zone() -> None:
    def read(until: str) -> object:
        text = EVERYTHING.replace("2027-01-15T08:00:00Z", until)
        return parse_document(text, PoliciesDocument, name="policies.yaml").model.overrides[1].until

    assert read("2027-01-15T08:00:00Z") == read("'2027-01-15T08:00:00Z'") == read("2027-01-15T10:00:00+02:00")


def test_override_that_has_ended_does_not_make_a_document_bad() -> None:
    parse_document(EVERYTHING.replace("2027-01-15", "2001-01-15"), PoliciesDocument, name="policies.yaml")


def test_shipped_schema_is_that_of_the_models() -> None:
    shipped = json.loads((SHIPPED / "policies.schema.json").read_text())
    assert shipped == write_schema(), "write it anew: make schemas"


def test_schema_describes_every_key_and_allows_no_others() -> None:
    schema = write_schema()
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    for model in (schema, *definitions.values()):
        assert model["additionalProperties"] is False
        assert model["description"]
    limit = definitions["LimitDocument"]["properties"]
    assert limit["mode"]["enum"] == ["enforce", "shadow", "off"]
    assert limit["refill"]["pattern"].startswith("^")
    assert definitions["OverrideDocument"]["properties"]["until"]["anyOf"][0] == {"type": "string", "format": "date-time"}


def test_shipped_document_names_its_schema_and_is_valid() -> None:
    first, _ = (SHIPPED / "policies.yaml").read_text().split("\n", 1)
    assert first == "# yaml-language-server: $schema=policies.schema.json"
    read_document(SHIPPED / "policies.yaml", PoliciesDocument)


def test_keys_that_the_shipped_document_comments_out_are_valid_all_together() -> None:
    shipped = (SHIPPED / "policies.yaml").read_text().split("\n", 1)[1]
    everything = re.sub(r"(?m)^( *)# ( *[-a-z])", r"\1\2", shipped)
    document = parse_document(everything, PoliciesDocument, name="policies.yaml").model
    search, everywhere = document.policies[1], document.policies[2]
    assert (document.mode, document.attributes, search.identity, everywhere.also) == (
        "shadow",
        ("country",),
        "authenticated",
        True,
    )
    assert (list(search.limits[0].tiers), search.limits[0].enforce_percent, len(document.overrides)) == (["gold"], 10, 1)


def test_every_key_is_documented() -> None:
    documented = (SHIPPED.parent / "docs" / "policies.md").read_text()
    for model in (PoliciesDocument, PolicyDocument, LimitDocument, OverrideDocument):
        assert [key for key in model.model_fields if f"`{key}" not in documented and f"    {key}:" not in documented] == []
