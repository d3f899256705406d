"""What operators decide through one enforcer is seen on every enforcer, made once, and told to Kafka."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from redis import Redis

from lua.keys import POLICIES as POLICIES_KEY
from lua.keys import POLICIES_FILES, name_abuse
from ratchet.v1 import admin_pb2, admin_pb2_grpc, enforcer_pb2
from tests.detector_under_test import read_topic
from tests.integration.enforcer.enforcer_under_test import EnforcerProcess, poll, run_enforcer
from tests.unit.enforcer.builders import POLICIES
from topics.events import RECORDS, AbuseState, Event, Override, SubjectEvent, VerdictEvent

VISIBLE_WITHIN_S = 10.0
"""A deadline for looking; a second is promised, and told by what was measured (docs/admin.md)."""
WITHIN_S = 30.0
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def enforcers(
    redis_url: str, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[EnforcerProcess]]:
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    with (
        run_enforcer(redis_url, kafka_bootstrap, folders[0], "--redis-timeout-ms", "1000") as one,
        run_enforcer(redis_url, kafka_bootstrap, folders[1], "--redis-timeout-ms", "1000", "--transport", "grpcio") as other,
    ):
        for enforcer in (one, other):
            enforcer.wait_for_redis()
            enforcer.wait_for_kafka()
        yield [one, other]
    with Redis.from_url(redis_url) as client:
        client.delete(POLICIES_KEY, POLICIES_FILES)  # enforcers of other tests go by their own files


@pytest.fixture(scope="module")
def admin(enforcers: list[EnforcerProcess]) -> admin_pb2_grpc.EnforcerAdminStub:
    return admin_pb2_grpc.EnforcerAdminStub(enforcers[0].channel)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4().hex[:8]}"


def name(user: str) -> admin_pb2.Subject:
    return admin_pb2.Subject(kind="user", value=user)


def change(reason: str = "because") -> admin_pb2.Change:
    return admin_pb2.Change(request_id=uuid.uuid4().hex, reason=reason)


def ban(user: str, *scope: str, duration_ms: int = MINUTE_MS) -> admin_pb2.ImposeBanRequest:
    return admin_pb2.ImposeBanRequest(change=change("stole a card"), subject=name(user), scope=scope, duration_ms=duration_ms)


def see(enforcers: list[EnforcerProcess], user: str, outcome: int, action: str = "login") -> None:
    """Every enforcer answers so within the time that is promised."""
    see_check(enforcers, lambda enforcer: enforcer.check(user, action).outcome == outcome, f"outcome {outcome}")


def see_check(enforcers: list[EnforcerProcess], look: Callable[[EnforcerProcess], bool], what: str) -> None:
    for enforcer in enforcers:
        poll(partial(look, enforcer), what, VISIBLE_WITHIN_S)


def refuse(call: Callable[..., Any], request: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call(request, timeout=WITHIN_S)
    return refused.value.code(), refused.value.details() or ""


def read_events(kafka: str, topic: str, user: str) -> list[Event]:
    records = asyncio.run(read_topic(kafka, topic))
    return [RECORDS[topic].validate_json(value) for key, value in records if key == f"user={user}".encode()]


def test_ban_and_lift_are_seen_on_every_enforcer_and_told_with_actor_and_reason(
    enforcers: list[EnforcerProcess],
    admin: admin_pb2_grpc.EnforcerAdminStub,
    kafka_bootstrap: str,
    redis: Redis,
    user: str,
) -> None:
    see(enforcers, user, enforcer_pb2.OUTCOME_ALLOW)
    imposed = admin.ImposeBan(ban(user, "login"), timeout=WITHIN_S)
    see(enforcers, user, enforcer_pb2.OUTCOME_BAN)
    answer = enforcers[1].check(user)
    assert (answer.ban.verdict_id, answer.ban.rule, answer.ban.level) == (imposed.verdict_id, "", 0)
    assert enforcers[1].check(user, "other").outcome == enforcer_pb2.OUTCOME_ALLOW
    lifted = admin.LiftBan(admin_pb2.LiftBanRequest(change=change("my mistake"), subject=name(user)), timeout=WITHIN_S)
    see(enforcers, user, enforcer_pb2.OUTCOME_ALLOW)
    assert lifted.rev == imposed.rev + 1

    verdicts = read_events(kafka_bootstrap, "verdicts", user)
    assert all(isinstance(event, VerdictEvent) for event in verdicts)
    told = [(event.penalty, event.actor, event.reason, event.verdict_id, event.rev) for event in verdicts]  # type: ignore[attr-defined]
    assert told == [
        ("ban", "anonymous@loopback", "stole a card", imposed.verdict_id, imposed.rev),
        ("lift", "anonymous@loopback", "my mistake", lifted.verdict_id, lifted.rev),
    ]
    latest = read_events(kafka_bootstrap, "subjects", user)[-1]
    assert isinstance(latest, SubjectEvent)
    assert latest.state.model_dump_json() == redis.get(name_abuse(f"user={user}"))


def test_repeat_under_the_same_id_changes_nothing_again(
    admin: admin_pb2_grpc.EnforcerAdminStub, kafka_bootstrap: str, redis: Redis, user: str
) -> None:
    request = ban(user)
    first = admin.ImposeBan(request, timeout=WITHIN_S)
    state = redis.get(name_abuse(f"user={user}"))
    again = admin.ImposeBan(request, timeout=WITHIN_S)
    assert (first.repeated_call, again.repeated_call) == (False, True)
    assert (again.verdict_id, again.rev) == (first.verdict_id, first.rev)
    assert redis.get(name_abuse(f"user={user}")) == state
    one, other = read_events(kafka_bootstrap, "verdicts", user)
    assert one == other, "readers tell a double by its id"


def test_id_of_another_change_is_refused(admin: admin_pb2_grpc.EnforcerAdminStub, redis: Redis, user: str) -> None:
    request = ban(user)
    admin.ImposeBan(request, timeout=WITHIN_S)
    state = redis.get(name_abuse(f"user={user}"))
    taken = (
        grpc.StatusCode.FAILED_PRECONDITION,
        "another change was made under this request id; a retry repeats all of it, a new change has a new id",
    )
    lift = admin_pb2.LiftBanRequest(change=request.change, subject=request.subject)
    assert refuse(admin.LiftBan, lift) == taken
    assert refuse(admin.Reset, admin_pb2.ResetRequest(change=request.change, subject=request.subject)) == taken
    request.duration_ms += 1
    assert refuse(admin.ImposeBan, request) == taken
    assert redis.get(name_abuse(f"user={user}")) == state
    reset = admin_pb2.ResetRequest(change=change(), subject=name(user))
    admin.Reset(reset, timeout=WITHIN_S)
    assert refuse(admin.Forgive, admin_pb2.ForgiveRequest(change=reset.change, subject=reset.subject)) == taken


def test_forgiven_subject_has_no_strikes_and_its_limits_are_their_own_again(
    enforcers: list[EnforcerProcess], admin: admin_pb2_grpc.EnforcerAdminStub, redis: Redis, user: str
) -> None:
    far_ms = 4_000_000_000_000
    held = AbuseState(
        rev=5,
        score=2000,
        score_at_ms=far_ms,
        half_life_ms=1000,
        level=2,
        factor=500,
        factor_until_ms=far_ms,
        factor_verdict="f",
    )
    redis.set(name_abuse(f"user={user}"), held.model_dump_json())
    assert enforcers[1].check(user).factor_per_mille == 500
    before = admin.Explain(admin_pb2.ExplainRequest(subject=name(user)), timeout=WITHIN_S)
    assert (before.score_milli, before.level, before.factor_per_mille, before.rev) == (2000, 2, 500, 5)
    admin.Forgive(admin_pb2.ForgiveRequest(change=change(), subject=name(user)), timeout=WITHIN_S)
    see_check(enforcers, lambda enforcer: enforcer.check(user).factor_per_mille == 1000, "factor 1")
    after = admin.Explain(admin_pb2.ExplainRequest(subject=name(user)), timeout=WITHIN_S)
    assert (after.score_milli, after.level, after.factor_per_mille, after.rev) == (0, 0, 1000, 6)
    assert after.human_at_ms > 0


def test_reset_fills_the_buckets_and_ends_remembered_refusals_everywhere(
    enforcers: list[EnforcerProcess], admin: admin_pb2_grpc.EnforcerAdminStub, kafka_bootstrap: str, user: str
) -> None:
    see_check(enforcers, lambda enforcer: enforcer.check(user).cached, "a refusal from memory")
    request = admin_pb2.ResetRequest(change=change("called us"), subject=name(user), policy="login")
    answer = admin.Reset(request, timeout=WITHIN_S)
    assert (answer.repeated_call, list(answer.left)) == (False, [])
    for _ in range(2):
        see(enforcers, user, enforcer_pb2.OUTCOME_ALLOW)
    assert admin.Reset(request, timeout=WITHIN_S).repeated_call
    status = admin.Explain(admin_pb2.ExplainRequest(subject=name(user), action="login"), timeout=WITHIN_S)
    assert status.limits[0].remaining < 5, "a repeat fills nothing again"
    event = read_events(kafka_bootstrap, "verdicts", user)[0]
    assert isinstance(event, VerdictEvent)
    assert (event.penalty, event.actor, event.reason) == ("reset", "anonymous@loopback", "called us")


def test_reset_says_which_limits_it_left_alone(admin: admin_pb2_grpc.EnforcerAdminStub, user: str) -> None:
    request = admin_pb2.ResetRequest(change=change(), subject=name(user))
    assert list(admin.Reset(request, timeout=WITHIN_S).left) == ["default:per_user"]
    request = admin_pb2.ResetRequest(change=change(), subject=name(user), action="other")
    assert list(admin.Reset(request, timeout=WITHIN_S).left) == []


def test_explanation_tells_the_policy_and_why_and_the_buckets_also_of_the_banned(
    enforcers: list[EnforcerProcess], admin: admin_pb2_grpc.EnforcerAdminStub, user: str
) -> None:
    enforcers[0].check(user, cost=2)
    request = admin_pb2.ExplainRequest(subject=name(user), action="login")
    answer = admin.Explain(request, timeout=WITHIN_S)
    assert (answer.policy, answer.matched_by, answer.subject.name) == ("login", "exact", f"user={user}")
    [limit] = answer.limits
    assert (limit.policy, limit.name, limit.capacity, limit.remaining) == ("login", "per_user", 5, 3)
    imposed = admin.ImposeBan(ban(user), timeout=WITHIN_S)
    answer = admin.Explain(request, timeout=WITHIN_S)
    assert [(entry.verdict_id, entry.subject) for entry in answer.bans] == [(imposed.verdict_id, f"user={user}")]
    assert [entry.remaining for entry in answer.limits] == [3]
    offered = enforcers[0].read_metric("ratchet_events_offered_total")
    admin.Explain(request, timeout=WITHIN_S)
    assert enforcers[0].read_metric("ratchet_events_offered_total") == offered, "it is no decision"


def test_explanation_without_an_action_shows_the_limits_for_such_subjects_each_once(
    enforcers: list[EnforcerProcess], admin: admin_pb2_grpc.EnforcerAdminStub, user: str
) -> None:
    enforcers[0].check(user, "login")
    enforcers[0].check(user, "shared")
    answer = admin.Explain(admin_pb2.ExplainRequest(subject=name(user)), timeout=WITHIN_S)
    shown = {f"{limit.policy}:{limit.name}": (limit.remaining, limit.shadow) for limit in answer.limits}
    assert shown == {"login:per_user": (4, False), "shared:trial": (1, True)}
    assert (answer.policy, answer.matched_by) == ("", "")


def test_explanation_takes_further_facts_about_the_check(admin: admin_pb2_grpc.EnforcerAdminStub, user: str) -> None:
    request = admin_pb2.ExplainRequest(subject=name(user), action="login", attributes={"ip": "203.0.113.7"})
    answer = admin.Explain(request, timeout=WITHIN_S)
    assert [limit.name for limit in answer.limits] == ["per_ip", "per_user"]
    request.subject.CopyFrom(admin_pb2.Subject(kind="ip", value="203.0.113.7"))
    answer = admin.Explain(request, timeout=WITHIN_S)
    assert [limit.name for limit in answer.limits] == ["per_ip"]
    request.action = "nowhere"
    assert admin.Explain(request, timeout=WITHIN_S).matched_by == "catch-all"
    request.attributes["B"] = "1"
    code, message = refuse(admin.Explain, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("attributes: the key 'B' is not allowed")


def test_every_ban_in_force_is_on_one_of_the_pages(admin: admin_pb2_grpc.EnforcerAdminStub, redis: Redis, user: str) -> None:
    users = {f"{user}-{number}" for number in range(25)}
    for banned in users:
        admin.ImposeBan(ban(banned), timeout=WITHIN_S)
    over = AbuseState(rev=1, bans=({"until_ms": 1, "level": 1, "rule": "r", "verdict_id": "v", "scope": ("*",)},))
    redis.set(name_abuse(f"user={user}-over"), over.model_dump_json())
    found: list[str] = []
    token = ""
    while True:
        page = admin.ListBans(admin_pb2.ListBansRequest(page_size=10, page_token=token), timeout=WITHIN_S)
        found += [entry.subject for entry in page.bans]
        token = page.next_page_token
        if not token:
            break
    assert {subject for subject in found if user in subject} == {f"user={banned}" for banned in users}


def test_bad_requests_are_refused_with_the_field_and_what_is_allowed(
    admin: admin_pb2_grpc.EnforcerAdminStub, redis: Redis, user: str
) -> None:
    for request, message in (
        (
            admin_pb2.LiftBanRequest(change=admin_pb2.Change(request_id="short", reason="x"), subject=name(user)),
            "change.request_id is 'short'; 16 to 64 bytes of printable ASCII without spaces are allowed",
        ),
        (
            admin_pb2.LiftBanRequest(change=change(""), subject=name(user)),
            "change.reason is empty; 1 to 512 bytes are allowed",
        ),
        (
            admin_pb2.LiftBanRequest(change=change(), subject=admin_pb2.Subject(kind="card", value="1")),
            "subject.kind is 'card'; the policies in force declare user, ip",
        ),
    ):
        assert refuse(admin.LiftBan, request) == (grpc.StatusCode.INVALID_ARGUMENT, message)
    assert redis.get(name_abuse(f"user={user}")) is None


def test_what_is_no_state_is_told_and_left_alone(admin: admin_pb2_grpc.EnforcerAdminStub, redis: Redis, user: str) -> None:
    redis.set(name_abuse(f"user={user}"), "{}")
    try:
        code, message = refuse(admin.Explain, admin_pb2.ExplainRequest(subject=name(user)))
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert message == f"what lies under abuse:{{user={user}}} is no state: 1 faults"
    finally:
        redis.delete(name_abuse(f"user={user}"))


def override(user: str, capacity: int, until_ms: int = 4_000_000_000_000) -> admin_pb2.Override:
    return admin_pb2.Override(
        subject=name(user), policy="login", limit="per_user", capacity=capacity, refill="50/1m", until_ms=until_ms
    )


def test_override_is_seen_on_every_enforcer_listed_explained_told_and_removed(
    enforcers: list[EnforcerProcess], admin: admin_pb2_grpc.EnforcerAdminStub, kafka_bootstrap: str, user: str
) -> None:
    def holds(capacity: int) -> None:
        see_check(enforcers, lambda enforcer: enforcer.check(user, cost=0).limits[0].capacity == capacity, f"{capacity}")

    holds(5)
    request = admin_pb2.SetOverrideRequest(change=change("a good customer"), override=override(user, 50))
    made = admin.SetOverride(request, timeout=WITHIN_S)
    holds(50)
    request.override.until_ms -= 5  # as when a person repeats `--for 1d` a little later
    again = admin.SetOverride(request, timeout=WITHIN_S)
    assert (made.repeated_call, again.repeated_call, again.rev) == (False, True, made.rev)

    def list_mine() -> list[tuple[int, str, int, str, str]]:
        found = admin.ListOverrides(admin_pb2.ListOverridesRequest(), timeout=WITHIN_S).overrides
        mine = [entry for entry in found if entry.subject.name == f"user={user}"]
        return [(entry.capacity, entry.refill, entry.until_ms, entry.reason, entry.actor) for entry in mine]

    [listed] = list_mine()
    assert listed == (50, "50/1m", 4_000_000_000_000, "a good customer", "anonymous@loopback")
    explained = admin.Explain(admin_pb2.ExplainRequest(subject=name(user)), timeout=WITHIN_S)
    assert [entry.capacity for entry in explained.overrides] == [50]
    remove = admin_pb2.RemoveOverrideRequest(change=change("left us"), subject=name(user), policy="login", limit="per_user")
    removed = admin.RemoveOverride(remove, timeout=WITHIN_S)
    holds(5)
    assert removed.rev == made.rev + 1
    assert list_mine() == []
    assert admin.RemoveOverride(remove, timeout=WITHIN_S).repeated_call
    remove.change.request_id = uuid.uuid4().hex
    assert refuse(admin.RemoveOverride, remove) == (
        grpc.StatusCode.NOT_FOUND, f"user={user} has no override of limit login:per_user"
    )  # fmt: skip
    told = {event.verdict_id: event for event in read_events(kafka_bootstrap, "verdicts", user)}  # type: ignore[attr-defined]
    first, second = told[made.verdict_id], told[removed.verdict_id]
    assert isinstance(first, VerdictEvent)
    assert isinstance(second, VerdictEvent)
    assert (first.penalty, first.reason, first.rev) == ("override", "a good customer", made.rev)
    assert first.override == Override(
        policy="login", limit="per_user", capacity=50, refill="50/1m", until_ms=4_000_000_000_000
    )  # fmt: skip
    assert (second.reason, second.override) == ("left us", Override(policy="login", limit="per_user"))


def test_override_that_cannot_be_is_refused(admin: admin_pb2_grpc.EnforcerAdminStub, user: str) -> None:
    bad = override(user, 0)
    code, message = refuse(admin.SetOverride, admin_pb2.SetOverrideRequest(change=change(), override=bad))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("capacity 0 and refill '50/1m' are no terms")
    bad = override(user, 5)
    bad.limit = "per_ip"
    assert refuse(admin.SetOverride, admin_pb2.SetOverrideRequest(change=change(), override=bad)) == (
        grpc.StatusCode.INVALID_ARGUMENT, "limit login:per_ip is per ip, not per user"
    )  # fmt: skip


def test_document_that_is_refused_names_its_lines_and_changes_nothing(admin: admin_pb2_grpc.EnforcerAdminStub) -> None:
    request = admin_pb2.ReloadRequest(change=change(), document="version: 1\nsubjects: [user]\npolicies: 5\n")
    code, message = refuse(admin.Reload, request)
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert message.startswith("document:3: policies: ")


def test_reload_without_a_document_publishes_the_file_of_the_enforcer(
    enforcers: list[EnforcerProcess], admin: admin_pb2_grpc.EnforcerAdminStub
) -> None:
    request = admin_pb2.ReloadRequest(change=change())
    answer = admin.Reload(request, timeout=WITHIN_S)
    assert answer.generation > 0

    def show() -> bool:
        shown = admin.ShowPolicies(admin_pb2.ShowPoliciesRequest(), timeout=WITHIN_S)
        return (shown.generation, shown.version, shown.document) == (answer.generation, answer.version, POLICIES)

    poll(show, "the document that was published")
    for enforcer in enforcers:
        poll(lambda: f'"generation": {answer.generation}' in enforcer.get("/readyz")[1], "its generation")  # noqa: B023
    again = admin.Reload(request, timeout=WITHIN_S)
    assert (again.generation, again.repeated_call) == (answer.generation, True)
