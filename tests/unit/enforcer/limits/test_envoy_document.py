"""Files of envoyproxy/ratelimit: what its server takes is taken, what it refuses is refused with the place and the reason."""

from __future__ import annotations

import pytest

from config.document import DocumentError
from enforcer.limits.envoy_document import DomainDocument, parse_domain


def parse(text: str) -> DomainDocument:
    return parse_domain(text, name="limits.yaml").model


def find_problems(text: str) -> tuple[str, ...]:
    with pytest.raises(DocumentError) as refused:
        parse(text)
    return refused.value.problems


def test_every_key_is_read() -> None:
    document = parse("""
domain: shop
descriptors:
  - key: service
    value: pay*
    detailed_metric: true
    value_to_metric: true
    share_threshold: true
    shadow_mode: true
    quota_mode: true
    metadata: { team: { name: payments } }
    rate_limit:
      unit: Minute
      requests_per_unit: 7
      name: pay
      replaces:
        - name: general
    descriptors:
      - key: user
        rate_limit: { unlimited: true }
""")
    (service,) = document.descriptors
    assert (document.domain, service.key, service.value, service.composite) == ("shop", "service", "pay*", "service_pay*")
    assert all((service.detailed_metric, service.value_to_metric, service.share_threshold))
    assert all((service.shadow_mode, service.quota_mode))
    assert service.metadata == {"team": {"name": "payments"}}
    assert service.rate_limit is not None
    assert (service.rate_limit.requests_per_unit, service.rate_limit.unit, service.rate_limit.name) == (7, "Minute", "pay")
    assert [replaced.name for replaced in service.rate_limit.replaces] == ["general"]
    (user,) = service.descriptors
    assert user.rate_limit is not None
    assert user.rate_limit.unlimited


def test_scalars_are_the_text_that_stands_there() -> None:
    document = parse(
        "domain: 1\ndescriptors:\n  - { key: 404, value: 010 }\n  - { key: on, value: 1.50 }\n  - { key: k, value: }\n"
    )
    assert document.domain == "1"
    assert [child.composite for child in document.descriptors] == ["404_010", "on_1.50", "k"]


def test_absent_parts_are_empty() -> None:
    assert parse("domain: a").descriptors == ()
    assert parse("domain: a\ndescriptors:").descriptors == ()
    assert parse("domain: a\ndescriptors:\n  - key: k\n    rate_limit:\n    descriptors:\n").descriptors[0].rate_limit is None


@pytest.mark.parametrize("unit", ["second", "MINUTE", "Hour", "day", "week", "month", "year"])
def test_unit_is_any_of_theirs_in_any_case(unit: str) -> None:
    limit = parse(f"domain: a\ndescriptors: [{{ key: k, rate_limit: {{ unit: {unit}, requests_per_unit: 1 }} }}]").descriptors[
        0
    ]
    assert limit.rate_limit is not None


DESCRIPTOR_KEYS = (
    "key, value, rate_limit, descriptors, shadow_mode, quota_mode, detailed_metric, value_to_metric, share_threshold, metadata"
)
LIMIT_KEYS = "requests_per_unit, unit, unlimited, name, replaces"
UNITS = "second, minute, hour, day, week, month, year are allowed"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("descriptors: []", "1: domain: is missing"),
        ("domain: ''", "1: domain: string should have at least 1 character, not ''"),
        ("domain: a\ndescriptors:\n  - value: v", "3: descriptors[0].key: is missing"),
        ("domain: a\ndescriptors:\n  - a",
         "3: descriptors[0]: input should be a valid dictionary or instance of DescriptorDocument, not 'a'"),
        ("domain: a\ndescriptors:\n  - key: k\n    ratelimit: {}",
         f"4: descriptors[0].ratelimit: unknown key; allowed are: {DESCRIPTOR_KEYS}"),
        ("domain: a\ndescriptors:\n  - key: k\n    rate_limit: { unit: day, requestsperunit: 5 }",
         f"4: descriptors[0].rate_limit.requestsperunit: unknown key; allowed are: {LIMIT_KEYS}"),
        ("domain: a\ndescriptors:\n  - key: k\n    rate_limit: { unit: foo, requests_per_unit: 5 }",
         f"4: descriptors[0].rate_limit: unit: 'foo' is none; {UNITS}"),
        ("domain: a\ndescriptors:\n  - key: k\n    rate_limit: { requests_per_unit: 5 }",
         f"4: descriptors[0].rate_limit: unit: '' is none; {UNITS}"),
        ("domain: a\ndescriptors:\n  - key: k\n    rate_limit: { unit: day, requests_per_unit: -1 }",
         "4: descriptors[0].rate_limit.requests_per_unit: input should be greater than or equal to 0, not '-1'"),
        ("domain: a\ndescriptors:\n  - key: k\n    rate_limit: { unit: day, requests_per_unit: 4294967296 }",
         "4: descriptors[0].rate_limit.requests_per_unit: input should be less than or equal to 4294967295, not '4294967296'"),
        ("domain: a\ndescriptors:\n  - key: k\n    rate_limit: { unlimited: true, unit: day }",
         "4: descriptors[0].rate_limit: unlimited: a limit that is unlimited has no unit; leave out one of them"),
        ("domain: a\ndescriptors:\n  - key: k\n    rate_limit: { unit: day, name: x, replaces: [{ name: x }] }",
         "4: descriptors[0].rate_limit: replaces: 'x' is this rate limit's own name; name another"),
        ("domain: a\ndescriptors:\n  - key: k\n    rate_limit: { unit: day, replaces: [{ name: }] }",
         "4: descriptors[0].rate_limit: replaces: a name is empty; write the name of a rate limit"),
        ("domain: a\ndescriptors:\n  - key: k\n    rate_limit: { unit: day, shadow_mode: true }",
         f"4: descriptors[0].rate_limit.shadow_mode: unknown key; allowed are: {LIMIT_KEYS}"),
        ("domain: a\ndescriptors:\n  - key: k\n    value: v\n    share_threshold: true",
         "3: descriptors[0]: share_threshold: 'k_v' has no `*`; only values that are patterns can share"),
        ("domain: a\ndescriptors:\n  - key: p\n    descriptors:\n      - { key: k, value: v }\n      - { key: k, value: v }",
         "3: descriptors[0]: descriptors: 'k_v' stands twice"),
        ("domain: a\ndescriptors:\n  - { key: k, value: v }\n  - { key: k_v }",
         "2: descriptors: 'k_v' stands twice"),
        ("0.25: a", "1: 0.25: unknown key; allowed are: domain, descriptors"),
        ("'''", "1: not YAML: found unexpected end of stream"),
        ("- a", "1: a mapping is expected, with the keys: domain, descriptors"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(text: str, problem: str) -> None:
    assert f"limits.yaml:{problem}" in find_problems(text)
