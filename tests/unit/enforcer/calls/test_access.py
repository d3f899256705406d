"""Who may call, and what."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from config.document import DocumentError, parse_document
from enforcer.calls.access import ANYBODY, ROLES, Access, AccessDocument, Callers, PermissionDenied, Unauthenticated, find_role
from tests.unit.enforcer.builders import make_plan

SHA = hashlib.sha256(b"secret").hexdigest()
OTHER_SHA = hashlib.sha256(b"other").hexdigest()


def compile_callers(*callers: str) -> Callers:
    text = "version: 1\ncallers:\n" + "".join(f"  - {{ {caller} }}\n" for caller in callers)
    return Callers.compile(parse_document(text, AccessDocument, name="access.yaml"))


BACKEND = f"name: backend, tokens: ['{SHA}'], roles: [check, report]"
MESH = "name: mesh, certificates: [mesh.internal, spiffe://cluster/mesh], roles: [check, refund], actions: [login, 'api/*']"


@pytest.mark.parametrize("authorization", ["Bearer secret", "bearer secret", b"Bearer secret", "BEARER secret"])
def test_known_token_names_its_caller_time_and_again(authorization: str | bytes) -> None:
    access = Access(compile_callers(BACKEND, MESH))
    assert access.admit("check", authorization).name == "backend"
    assert access.admit("report", authorization).name == "backend"


@pytest.mark.parametrize(
    "authorization",
    [None, "", b"", "secret", "Bearer", "Bearer ", "Bearer Secret", "Bearer secret ", f"Bearer {SHA}", "Basic secret",
     "Bearer é", b"\xff"],
)  # fmt: skip
def test_nobody_else_is_known(authorization: str | bytes | None) -> None:
    with pytest.raises(Unauthenticated) as refused:
        Access(compile_callers(BACKEND)).admit("check", authorization)
    assert str(refused.value) == (
        "a bearer token (metadata `authorization: Bearer TOKEN`) or client certificate that this enforcer knows is needed"
    )


def test_any_name_in_the_certificate_names_its_caller() -> None:
    access = Access(compile_callers(BACKEND, MESH))
    assert access.admit("check", None, ["other.internal", "spiffe://cluster/mesh"]).name == "mesh"
    with pytest.raises(Unauthenticated):
        access.admit("check", None, ["other.internal", "mesh"])


def test_token_that_is_given_counts_alone() -> None:
    access = Access(compile_callers(BACKEND, MESH))
    assert access.admit("check", "Bearer secret", ["mesh.internal"]).name == "backend"
    with pytest.raises(Unauthenticated):
        access.admit("check", "Bearer unknown", ["mesh.internal"])


def test_lacking_role_is_named() -> None:
    access = Access(compile_callers(BACKEND))
    with pytest.raises(PermissionDenied) as refused:
        access.admit("admin", "Bearer secret")
    assert str(refused.value) == "caller backend lacks the role admin; it has: check, report"


def test_caller_is_confined_to_its_actions() -> None:
    mesh = Access(compile_callers(MESH)).admit("check", None, ["mesh.internal"])
    assert mesh.is_confined
    for action in ("login", "api/", "api/users/1"):
        mesh.permit_action(action)
        mesh.permit(make_plan(action=action))
    for action in ("logins", "api", "other", "API/users"):
        with pytest.raises(PermissionDenied) as refused:
            mesh.permit(make_plan(action=action))
        assert str(refused.value) == f"caller mesh may not use action {action}; it may: login, api/*"


@pytest.mark.parametrize(("cost", "costs"), [(-1, ()), (1, (1, -1))])
def test_giving_tokens_back_needs_a_role_of_its_own(cost: int, costs: tuple[int, ...]) -> None:
    access = Access(compile_callers(BACKEND, f"name: envoy, tokens: ['{OTHER_SHA}'], roles: [check, refund]"))
    plan = make_plan()
    refund = msgspec.structs.replace(plan, check=msgspec.structs.replace(plan.check, cost=cost), costs=costs)
    backend, envoy = access.admit("check", "Bearer secret"), access.admit("check", "Bearer other")
    assert (backend.is_confined, envoy.is_confined) == (True, False)
    backend.permit(plan)
    envoy.permit(refund)
    with pytest.raises(PermissionDenied) as refused:
        backend.permit(refund)
    assert str(refused.value) == "caller backend lacks the role refund; it has: check, report"


def test_without_a_document_everybody_may_do_everything() -> None:
    for role in ROLES:
        assert Access().admit(role, None) is ANYBODY
    assert not ANYBODY.is_confined


def test_signed_check_names_its_caller_whatever_it_said() -> None:
    mesh = Access(compile_callers(MESH)).admit("check", None, ["mesh.internal"])
    check = make_plan(attributes={"caller": "forged", "ip": "192.0.2.1"}).check
    assert mesh.sign(check).attributes == {"caller": "mesh", "ip": "192.0.2.1"}
    assert check.attributes["caller"] == "forged"


@pytest.mark.parametrize(
    ("host", "is_served"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("enforcer.internal", False), ("", False)],
)  # fmt: skip
def test_administration_off_loopback_needs_a_document(host: str, is_served: bool) -> None:
    assert Access().serves_admin(host) is is_served
    assert Access(compile_callers(BACKEND)).serves_admin(host)


def test_document_that_is_replaced_counts_from_the_next_call_on() -> None:
    access = Access(compile_callers(BACKEND))
    access.admit("check", "Bearer secret")
    access.replace(compile_callers(f"name: backend, tokens: ['{OTHER_SHA}'], roles: [check]"))
    assert access.admit("check", "Bearer other").name == "backend"
    with pytest.raises(Unauthenticated):
        access.admit("check", "Bearer secret")


@pytest.mark.parametrize(
    ("method", "role"),
    [
        ("/ratchet.v1.Enforcer/Check", "check"),
        ("/ratchet.v1.Enforcer/CheckBatch", "check"),
        ("/ratchet.v1.Enforcer/ReportOutcomes", "report"),
        ("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", "check"),
        ("/envoy.service.rate_limit_quota.v3.RateLimitQuotaService/StreamRateLimitQuotas", "check"),
        ("/ratchet.v1.EnforcerAdmin/Explain", "admin"),
        ("/ratchet.v1.Enforcer/NotYetKnown", "admin"),
        ("/grpc.health.v1.Health/Check", None),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", None),
    ],
)
def test_every_method_needs_a_role(method: str, role: str | None) -> None:
    assert find_role(method) == role


def test_document_that_the_page_shows_is_valid() -> None:
    page = (Path(__file__).parents[4] / "docs" / "access.md").read_text()
    callers = parse_document(page.split("```yaml\n")[1].split("```")[0], AccessDocument, name="access.md").model.callers
    assert [caller.name for caller in callers] == ["checkout", "mesh", "ann@example.com"]


NO_GLOB = "is not an action or glob: 1 to 128 printable ASCII characters without spaces"


@pytest.mark.parametrize(
    ("callers", "problem"),
    [
        (" []", "access.yaml:2: callers: tuple should have at least 1 item after validation, not 0"),
        (
            "\n  - { name: a, tokens: [secret], roles: [check] }",
            "access.yaml:3: callers[0].tokens[0]: string should match pattern '^[0-9a-f]{64}$', not 'secret'",
        ),
        (
            f"\n  - {{ name: a, token: x, tokens: ['{SHA}'], roles: [check] }}",
            "access.yaml:3: callers[0].token: unknown key; allowed are: name, tokens, certificates, roles, actions",
        ),
        (
            "\n  - { name: a b, certificates: [a], roles: [check] }",
            "access.yaml:3: callers[0].name: string should match pattern '^[A-Za-z0-9_.@-]{1,64}$', not 'a b'",
        ),
        (
            "\n  - { name: a, roles: [check] }",
            "access.yaml:3: callers[0]: has neither tokens nor certificates; by one of them a caller is known",
        ),
        ("\n  - { name: a, certificates: [a] }", "access.yaml:3: callers[0].roles: is missing"),
        (
            "\n  - { name: a, certificates: [a], roles: [root] }",
            "access.yaml:3: callers[0].roles[0]: input should be 'check', 'report', 'refund' or 'admin', not 'root'",
        ),
        (
            "\n  - { name: a, certificates: [a], roles: [check], actions: [] }",
            "access.yaml:3: callers[0].actions: tuple should have at least 1 item after validation, not 0",
        ),
        (
            "\n  - { name: a, certificates: [a], roles: [check], actions: [a b] }",
            "access.yaml:3: callers[0].actions[0]: 'a b' " + NO_GLOB,
        ),
        (
            "\n  - { name: a, certificates: [a], roles: [check], actions: ['*a*b*c*'] }",
            "access.yaml:3: callers[0].actions[0]: '*a*b*c*' has more than 3 stars",
        ),
        (
            "\n  - { name: a, certificates: [a], roles: [check] }\n  - { name: a, certificates: [b], roles: [check] }",
            "access.yaml:4: callers[1]: name: a stands here a second time",
        ),
        (
            "\n  - { name: a, certificates: [x], roles: [check] }\n  - { name: b, certificates: [y, x], roles: [check] }",
            "access.yaml:4: callers[1]: certificates: x stands here a second time",
        ),
        (
            f"\n  - {{ name: a, tokens: ['{SHA}'], roles: [check] }}\n  - {{ name: b, tokens: ['{SHA}'], roles: [check] }}",
            f"access.yaml:4: callers[1]: tokens: {SHA} stands here a second time",
        ),
    ],
)
def test_bad_document_is_refused(callers: str, problem: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse_document(f"version: 1\ncallers:{callers}\n", AccessDocument, name="access.yaml")
    assert list(refused.value.problems) == [problem]
