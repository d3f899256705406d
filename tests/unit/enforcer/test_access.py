from __future__ import annotations

import hashlib

import pytest

from config.document import DocumentError, parse_document
from enforcer.access import Access, AccessDocument


def load(text: str) -> Access:
    return Access.compile(parse_document(text, AccessDocument, name="access.yaml"))


KNOWN = load(f"version: 1\ntokens:\n  - {{ name: backend, sha256: {hashlib.sha256(b'secret').hexdigest()} }}\n")


def test_everybody_may_call_without_a_document() -> None:
    assert Access().admits(None)


@pytest.mark.parametrize("value", ["Bearer secret", "bearer secret", b"Bearer secret"])
def test_a_known_token_is_let_in(value: str | bytes) -> None:
    assert KNOWN.admits(value)


@pytest.mark.parametrize(
    "value",
    [None, "", "secret", "Basic secret", "Bearer", "Bearer ", "Bearer Secret", "Bearer secret ", "Bearer  secret", b"\xff"],
)
def test_anything_else_is_not(value: str | bytes | None) -> None:
    assert not KNOWN.admits(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\ntokens: []\n", "access.yaml:2: tokens: tuple should have at least 1 item after validation, not 0"),
        (
            "version: 1\ntokens:\n  - { name: backend, sha256: secret }\n",
            "access.yaml:3: tokens[0].sha256: string should match pattern '^[0-9a-f]{64}$', not 'secret'",
        ),
        (
            "version: 1\ntokens:\n  - { name: backend, token: secret }\n",
            "access.yaml:3: tokens[0].token: unknown key; allowed are: name, sha256",
        ),
    ],
)
def test_a_bad_document_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as raised:
        load(text)
    assert message in raised.value.problems
