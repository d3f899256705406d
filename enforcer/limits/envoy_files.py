"""Which kind of document stands at a path: our policies, or the files of ``envoyproxy/ratelimit``; either becomes policies."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from config.document import DocumentError, parse_document, read_text
from enforcer.limits.check import bound_action
from enforcer.limits.envoy_document import DomainDocument, find_double, parse_domain
from enforcer.limits.envoy_domain import compile_domain
from enforcer.limits.policy import Policies, Policy
from enforcer.limits.policy_document import PoliciesDocument

_SUFFIXES = {".yaml", ".yml"}

_HAS_DOMAIN = re.compile(r"""^(?:\{\s*)?["']?domain["']?\s*:""", re.MULTILINE).search

_NO_LIMITS = """
version: 1
subjects: [user, ip]
policies:
  - { name: unmatched, match: { action: "*" }, limits: [] }
"""
"""Beside those files: in a domain that has none everything passes, as in that server."""


def load_policies(path: Path) -> Policies:
    """Load what stands at a path.

    Args:
        path: A policies document; or a file of ``envoyproxy/ratelimit``, which begins with a ``domain``; or a folder of such
            files, in which what several say of one domain is taken together.

    Raises:
        DocumentError: Something cannot be read or is refused.
    """
    if path.is_dir():
        files = list_files(path)
        if not files:
            raise DocumentError([f"{path}: no file here ends in .yaml or .yml"])
        return compile_files([(str(file), read_text(file)) for file in files])
    text = read_text(path)
    if is_domain(text):
        return compile_files([(str(path), text)])
    return Policies.compile(parse_document(text, PoliciesDocument, name=str(path)))


def list_files(path: Path) -> list[Path]:
    """What stands at a path, file by file, in the order in which a folder's are read; also a file that is not there."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and not file.name.startswith("."))


def is_domain(text: str) -> bool:
    """Whether a text is a file of ``envoyproxy/ratelimit``: its outermost mapping has a domain, which ours has not."""
    return _HAS_DOMAIN(text) is not None


def compile_files(files: Iterable[tuple[str, str]]) -> Policies:
    """Compile the files of ``envoyproxy/ratelimit``, given as name and text, in the order in which their patterns are tried.

    A request of a domain is limited by what its files say and by nothing else; a check of ours is not limited by them.

    Raises:
        DocumentError: Some are refused; all their problems are reported.
    """
    domains: dict[str, list[DomainDocument]] = defaultdict(list)
    problems: list[str] = []
    version = hashlib.sha256()
    for name, text in files:
        version.update(f"{len(text)} ".encode() + text.encode())
        try:
            document = parse_domain(text, name=name).model
        except DocumentError as error:
            problems += error.problems
            continue
        known = domains[document.domain]
        known.append(document)
        double = find_double(child for each in known for child in each.descriptors)
        if double is not None:
            problems.append(
                f"{name}:1: descriptors: {double!r} stands in an earlier file of the domain {document.domain!r} too"
            )
    if problems:
        raise DocumentError(problems)
    policies = Policies.compile(parse_document(_NO_LIMITS, PoliciesDocument, name="unmatched"))
    return replace(
        policies,
        version=version.hexdigest()[:12],
        exact={bound_action(domain): Policy(bound_action(domain), bound_action(domain), (), "local") for domain in domains},
        domains={domain: compile_domain(documents) for domain, documents in domains.items()},
    )
