"""Policies, plans and decisions for tests, from little."""

from __future__ import annotations

from collections.abc import Mapping

from config.document import parse_document
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.limits.check import Check, validate_check
from enforcer.limits.policy import Policies
from enforcer.limits.policy_document import PoliciesDocument

ODD_IDS = ["{}", "a:b", "a b", "🦊", "line\nbreak", "a}b{c", "%7B", "\x00", "é", "a" * 1024, "é" * 512]

POLICIES = """
version: 1
subjects: [user, ip]
foldable: [agent, country]
policies:
  - name: login
    match: { action: login }
    limits:
      - { name: per_ip, per: [ip], capacity: 30, refill: 30/1m }
      - { name: per_user, per: [user], capacity: 5, refill: 5/1m }
  - name: shared
    match: { action: shared }
    limits:
      - { name: everybody, per: [], capacity: 100, refill: 100/1s }
      - { name: trial, per: [user], capacity: 2, refill: 2/1m, mode: shadow }
      - { name: gone, per: [user], capacity: 1, refill: 1/1h, mode: "off" }
    without_redis: deny
  - name: free
    match: { action: free }
    limits: []
  - name: default
    match: { action: "*" }
    limits:
      - { name: per_user, per: [user, action], capacity: 100, refill: 100/1s }
    without_redis: allow
"""

EVERYTHING = """
version: 1
subjects: [user, ip]
attributes: [country]
tier: { attribute: plan }
envoy: { domains: { edge: login }, keys: { x-account: user, geo: country } }
policies:
  - name: everywhere
    match: { action: "*" }
    also: true
    limits:
      - { name: per_user, per: [user], capacity: 500, refill: 500/1h }
  - name: logins
    match: { action: log* }
    also: true
    limits:
      - { name: per_country, per: [country, ip], capacity: 40, refill: 40/1m }
  - name: login
    match: { action: login }
    limits:
      - { name: per_ip, per: [ip], capacity: 30, refill: 30/1m, required: true }
      - { name: per_user, per: [user], capacity: 5, refill: 5/1m, mode: shadow }
    without_redis: deny
    priority: 10
    identity: authenticated
  - name: search
    match: { action: search* }
    limits:
      - name: per_user
        per: [user, action]
        capacity: 10
        refill: 10/1m
        enforce_percent: 50
        tiers:
          gold: { capacity: 100, refill: 100/1m }
          PRO: { capacity: 1000, refill: 1000/1m }
      - { name: "off", per: [user], capacity: 1, refill: 1/1h, mode: "off" }
  - name: default
    match: { action: "*" }
    limits:
      - { name: shared, per: [], capacity: 1000, refill: 1000/1s }
      - { name: per_user, per: [user], capacity: 100, refill: 100/1s }
    without_redis: allow
overrides:
  - { subject: { kind: user, value: partner }, policy: search, limit: per_user, capacity: 1000, refill: 1000/1s, reason: x }
  - subject: { kind: ip, value: "2001:DB8::7" }
    policy: login
    limit: per_ip
    capacity: 1
    refill: 1/1h
    until: 2027-01-15T08:00:00Z
    reason: stuffing
"""
"""Every kind of thing that a document can say."""


def make_policies(text: str = POLICIES) -> Policies:
    return Policies.compile(parse_document(text, PoliciesDocument, name="policies.yaml"))


POLICIES_IN_FORCE = make_policies()


def make_check(
    user: str = "alice",
    action: str = "login",
    cost: int = 1,
    attributes: Mapping[str, str] | None = None,
    suppressed: int = 0,
    suppressed_limits: tuple[str, ...] = (),
) -> Check:
    return validate_check(user, action, cost, attributes or {}, suppressed, suppressed_limits)


def make_plan(
    user: str = "alice",
    action: str = "login",
    cost: int = 1,
    attributes: Mapping[str, str] | None = None,
    suppressed: int = 0,
    suppressed_limits: tuple[str, ...] = (),
    policies: Policies | None = None,
) -> Plan:
    return Planner(policies or POLICIES_IN_FORCE).plan(
        make_check(user, action, cost, attributes, suppressed, suppressed_limits)
    )
