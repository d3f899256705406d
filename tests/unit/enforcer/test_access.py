"""Who may call."""

from __future__ import annotations

import hashlib

import pytest

from config.document import DocumentError, parse_document
from enforcer.access import Access, AccessDocument

SHA = hashlib.sha256(b"secret").hexdigest()


def compile_access(*hashes: str) -> Access:
    tokens = "".join(f"\n  - {{ name: caller-{number}, sha256: '{each}' }}" for number, each in enumerate(hashes))
    return Access.compile(parse_document(f"version: 1\ntokens:{tokens}\n", AccessDocument, name="access.yaml"))


@pytest.mark.parametrize("authorization", ["Bearer secret", "bearer secret", b"Bearer secret", "BEARER secret"])
def test_known_token_is_let_in(authorization: str | bytes) -> None:
    assert compile_access(SHA, "0" * 64).admits(authorization)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        b"",
        "secret",
        "Bearer",
        "Bearer ",
        "Bearer Secret",
        "Bearer secret ",
        f"Bearer {SHA}",
        "Basic secret",
        "Bearer é",
        b"\xff",
    ],
)
def test_nobody_else_is(authorization: str | bytes | None) -> None:
    assert not compile_access(SHA).admits(authorization)


def test_without_a_document_everybody_may_call() -> None:
    assert Access().admits(None)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("version: 1\ntokens: []\n", "access.yaml:2: tokens: tuple should have at least 1 item after validation, not 0"),
        (
            "version: 1\ntokens:\n  - { name: a, sha256: secret }\n",
            "access.yaml:3: tokens[0].sha256: string should match pattern '^[0-9a-f]{64}$', not 'secret'",
        ),
        (
            f"version: 1\ntokens:\n  - {{ name: a, token: x, sha256: '{SHA}' }}\n",
            "access.yaml:3: tokens[0].token: unknown key; allowed are: name, sha256",
        ),
    ],
)
def test_bad_document_is_refused(document: str, problem: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse_document(document, AccessDocument, name="access.yaml")
    assert list(refused.value.problems) == [problem]
