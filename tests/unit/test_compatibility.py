"""The tables of compatibility name every field, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from enforcer.limits.envoy_document import DescriptorDocument, DomainDocument, RateLimitDocument
from ratchet.envoy import descriptor_pb2, rls_pb2

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("compatibility*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    there = {name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)\(", file.read_text())}
    assert named
    assert named - there == set()


def test_every_field_of_the_protocol_and_key_of_the_files_has_a_row() -> None:
    rows = " ".join(
        line.split(" | ")[0] for line in (ROOT / "docs" / "compatibility.md").read_text().splitlines() if "|" in line
    )
    words = set(re.findall(r"\w+", rows))
    messages = (
        rls_pb2.RateLimitRequest,
        descriptor_pb2.RateLimitDescriptor,
        descriptor_pb2.RateLimitDescriptor.RateLimitOverride,
        rls_pb2.RateLimitResponse,
        rls_pb2.RateLimitResponse.DescriptorStatus,
        rls_pb2.RateLimitResponse.RateLimit,
    )
    fields = {field.name for message in messages for field in message.DESCRIPTOR.fields}
    keys = {key for model in (DomainDocument, DescriptorDocument, RateLimitDocument) for key in model.model_fields}
    assert (fields | keys) - words == set()
