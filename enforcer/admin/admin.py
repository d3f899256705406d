"""The gRPC service of ``ratchet.v1.EnforcerAdmin``: what operators ask and decide. Never on the path of a check.

A change is made in Redis first, atomically and once, then told to Kafka. When Kafka is away the call fails and the change
stands; its repetition, under the same request id, finds in Redis what came of it and tells it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog

from config.document import DocumentError
from enforcer.admin.admin_requests import (
    RequestRefused,
    read_action,
    read_attributes,
    read_change,
    read_duration_ms,
    read_page,
    read_scope,
    read_subject,
)
from enforcer.admin.audit import Audit, KafkaAway
from enforcer.admin.explaining import BucketsUnread, explain, write_ban, write_override
from enforcer.admin.resetting import TooManyBuckets, find_buckets
from enforcer.admin.ruling import Ruling, RulingPenalty, digest_texts, identify_change, make_ruling_event
from enforcer.admin.subject_store import StateUnreadable, SubjectStore
from enforcer.calls.decider import Decider
from enforcer.calls.guard import current_caller
from enforcer.reload.generations import publish_document
from enforcer.reload.in_force import InForce
from enforcer.reload.overrides import (
    OverrideRefused,
    OverrideUnknown,
    Result,
    RunTimeOverride,
    Target,
    list_overrides,
    remove_override,
    set_override,
)
from enforcer.stores.redis_script import IdTaken, RedisAway
from ratchet.v1 import admin_pb2, admin_pb2_grpc
from topics.events import Override, VerdictEvent

Context = grpc.aio.ServicerContext[Any, Any]

log = structlog.get_logger(__name__)


ALL_POLICIES = "policies"
"""Whom the event of a reload is about."""


class Unknown(LookupError):  # noqa: N818 it says what is the case
    """There is no such thing. Nothing was changed."""


_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (RequestRefused, grpc.StatusCode.INVALID_ARGUMENT),
    (TooManyBuckets, grpc.StatusCode.INVALID_ARGUMENT),
    (OverrideRefused, grpc.StatusCode.INVALID_ARGUMENT),
    (Unknown, grpc.StatusCode.NOT_FOUND),
    (OverrideUnknown, grpc.StatusCode.NOT_FOUND),
    (DocumentError, grpc.StatusCode.FAILED_PRECONDITION),
    (IdTaken, grpc.StatusCode.FAILED_PRECONDITION),
    (StateUnreadable, grpc.StatusCode.FAILED_PRECONDITION),
    (BucketsUnread, grpc.StatusCode.UNAVAILABLE),
    (RedisAway, grpc.StatusCode.UNAVAILABLE),
    (KafkaAway, grpc.StatusCode.UNAVAILABLE),
)


@asynccontextmanager
async def _answering(context: Context) -> AsyncIterator[None]:
    """Turn what went wrong into the call's status."""
    try:
        yield
    except tuple(kind for kind, _ in _CODES) as error:
        code = next(code for kind, code in _CODES if isinstance(error, kind))
        await context.abort(code, str(error))


class AdminService(admin_pb2_grpc.EnforcerAdminServicer):
    """Answers operators. Plain grpcio code: it runs on either transport."""

    def __init__(self, decider: Decider, in_force: InForce, store: SubjectStore, audit: Audit) -> None:
        """Build the service.

        Args:
            decider: Plans by the policies in force, and reads buckets.
            in_force: Knows where they are from.
            store: Redis.
            audit: Kafka.
        """
        self._decider, self._in_force, self._store, self._audit = decider, in_force, store, audit

    async def Explain(self, request: admin_pb2.ExplainRequest, context: Context) -> admin_pb2.ExplainResponse:  # noqa: N802
        """Tell what is known of one subject."""
        async with _answering(context):
            subject = read_subject(request.subject, self._decider.planner.policies)
            action, attributes = read_action(request.action), read_attributes(request.attributes)
            return await explain(self._decider, self._store, subject, action, attributes)

    async def ListBans(self, request: admin_pb2.ListBansRequest, context: Context) -> admin_pb2.ListBansResponse:  # noqa: N802
        """Hand out a page of bans."""
        async with _answering(context):
            place, count = read_page(request)
            page = await self._store.list_held(place, count)
            bans = [
                write_ban(subject, ban) for subject, state in page.states for ban in state.bans if ban.until_ms > page.now_ms
            ]
            return admin_pb2.ListBansResponse(bans=bans, next_page_token=page.next_place)

    async def ImposeBan(self, request: admin_pb2.ImposeBanRequest, context: Context) -> admin_pb2.ChangeResponse:  # noqa: N802
        """Refuse a subject from now on."""
        async with _answering(context):
            scope, duration_ms = read_scope(request.scope), read_duration_ms(request.duration_ms)
            return await self._rule(self._make_ruling(request, "ban", scope, duration_ms))

    async def LiftBan(self, request: admin_pb2.LiftBanRequest, context: Context) -> admin_pb2.ChangeResponse:  # noqa: N802
        """End the bans of a subject."""
        async with _answering(context):
            return await self._rule(self._make_ruling(request, "lift"))

    async def Forgive(self, request: admin_pb2.ForgiveRequest, context: Context) -> admin_pb2.ChangeResponse:  # noqa: N802
        """Forget the strikes of a subject."""
        async with _answering(context):
            return await self._rule(self._make_ruling(request, "forgive"))

    def _make_ruling(
        self,
        request: admin_pb2.ImposeBanRequest | admin_pb2.LiftBanRequest | admin_pb2.ForgiveRequest,
        penalty: RulingPenalty,
        scope: tuple[str, ...] = (),
        duration_ms: int = 0,
    ) -> Ruling:
        change = read_change(request.change)
        subject = read_subject(request.subject, self._decider.planner.policies)
        actor = current_caller().name
        return Ruling(
            identify_change(change.request_id, actor, subject),
            digest_texts(penalty, change.reason, str(duration_ms), *scope),
            subject,
            penalty,
            actor,
            change.reason,
            scope,
            duration_ms,
        )

    async def _rule(self, ruling: Ruling) -> admin_pb2.ChangeResponse:
        ruled = await self._store.rule(ruling)
        event = make_ruling_event(ruling, ruled.finding)
        await self._tell(event, ruled.state)
        return admin_pb2.ChangeResponse(verdict_id=ruling.verdict_id, rev=event.rev, repeated_call=ruled.is_repeat)

    async def Reset(self, request: admin_pb2.ResetRequest, context: Context) -> admin_pb2.ChangeResponse:  # noqa: N802
        """Fill the buckets that are a subject's alone."""
        async with _answering(context):
            change, policies = read_change(request.change), self._decider.planner.policies
            subject, action = read_subject(request.subject, policies), read_action(request.action)
            chosen = [policy for policy in policies if request.policy in {"", policy.name}]
            if not chosen:
                raise Unknown(f"there is no policy {request.policy[:64]!r} in force")
            buckets = find_buckets(chosen, subject, action)
            actor = current_caller().name
            verdict_id = identify_change(change.request_id, actor, subject)
            digest = digest_texts("reset", change.reason, request.policy, action)
            # The subject's own hash tag comes first: what is stored there is what the event tells of.
            first = await self._store.reset(subject, subject, verdict_id, digest, buckets.keys.pop(subject, []))
            for tag, keys in buckets.keys.items():
                await self._store.reset(subject, tag, verdict_id, digest, keys)
            event = VerdictEvent(
                verdict_id=verdict_id,
                subject=subject,
                penalty="reset",
                result="applied",
                at_ms=first.at_ms,
                applied_at_ms=first.at_ms,
                scope=(action,) if action else (),
                actor=actor,
                reason=change.reason,
            )
            await self._tell(event)
            return admin_pb2.ChangeResponse(verdict_id=verdict_id, repeated_call=first.is_repeat, left=buckets.left)

    async def SetOverride(self, request: admin_pb2.SetOverrideRequest, context: Context) -> admin_pb2.ChangeResponse:  # noqa: N802
        """Give one subject other terms for one limit, for a time."""
        async with _answering(context):
            change, policies, asked = read_change(request.change), self._decider.planner.policies, request.override
            target = Target(read_subject(asked.subject, policies), asked.policy, asked.limit)
            actor = current_caller().name
            override = RunTimeOverride(*target, asked.capacity, asked.refill, asked.until_ms, change.reason, actor)
            verdict_id = identify_change(change.request_id, actor, " ".join(target))
            result = await set_override(self._store.client, override, verdict_id, policies)
            return await self._tell_override(target, verdict_id, actor, change.reason, result)

    async def RemoveOverride(  # noqa: N802
        self, request: admin_pb2.RemoveOverrideRequest, context: Context
    ) -> admin_pb2.ChangeResponse:
        """Give one subject the terms of the policies back."""
        async with _answering(context):
            change = read_change(request.change)
            subject = read_subject(request.subject, self._decider.planner.policies)
            target, actor = Target(subject, request.policy, request.limit), current_caller().name
            verdict_id = identify_change(change.request_id, actor, " ".join(target))
            result = await remove_override(self._store.client, target, verdict_id)
            return await self._tell_override(target, verdict_id, actor, change.reason, result)

    async def _tell_override(
        self, target: Target, verdict_id: str, actor: str, reason: str, result: Result
    ) -> admin_pb2.ChangeResponse:
        terms = Override(policy=target.policy, limit=target.limit)
        if (override := result.override) is not None:  # of a retry, what was set at first
            terms = Override(
                policy=override.policy,
                limit=override.limit,
                capacity=override.capacity,
                refill=override.refill,
                until_ms=override.until_ms,
            )
            reason = override.reason
        event = VerdictEvent(
            verdict_id=verdict_id,
            subject=target.subject,
            penalty="override",
            result="applied",
            at_ms=result.at_ms,
            applied_at_ms=result.at_ms,
            rev=result.revision,
            actor=actor,
            reason=reason,
            override=terms,
        )
        await self._tell(event)
        return admin_pb2.ChangeResponse(verdict_id=verdict_id, rev=result.revision, repeated_call=result.is_repeat)

    async def ListOverrides(  # noqa: N802
        self,
        request: admin_pb2.ListOverridesRequest,  # noqa: ARG002
        context: Context,
    ) -> admin_pb2.ListOverridesResponse:
        """List the overrides in force."""
        async with _answering(context):
            overrides = await list_overrides(self._store.client)
            return admin_pb2.ListOverridesResponse(overrides=[write_override(override) for override in overrides])

    async def ShowPolicies(  # noqa: N802
        self,
        request: admin_pb2.ShowPoliciesRequest,  # noqa: ARG002
        context: Context,
    ) -> admin_pb2.ShowPoliciesResponse:
        """Tell which policies this enforcer goes by."""
        in_force = self._in_force
        async with _answering(context):
            return admin_pb2.ShowPoliciesResponse(
                version=in_force.version,
                document=in_force.read_text(),
                generation=in_force.generation.number,
                published=bool(in_force.document.published),
                rejected=() if in_force.rejection is None else in_force.rejection.problems,
            )

    async def Reload(self, request: admin_pb2.ReloadRequest, context: Context) -> admin_pb2.ReloadResponse:  # noqa: N802
        """Put a policies document in force on every enforcer."""
        async with _answering(context):
            change, actor = read_change(request.change), current_caller().name
            verdict_id = identify_change(change.request_id, actor, ALL_POLICIES)
            text = request.document or self._in_force.read_files()
            registered = await publish_document(self._store.client, text, verdict_id, actor, change.reason)
            at_ms = registered.generation.since_us // 1000
            event = VerdictEvent(
                verdict_id=verdict_id,
                subject=ALL_POLICIES,
                penalty="reload",
                result="applied",
                rule_version=registered.version,
                at_ms=at_ms,
                applied_at_ms=at_ms,
                rev=registered.generation.number,
                actor=actor,
                reason=change.reason,
            )
            await self._tell(event)
            return admin_pb2.ReloadResponse(
                version=registered.version,
                generation=registered.generation.number,
                verdict_id=verdict_id,
                repeated_call=registered.is_repeat,
            )

    async def _tell(self, event: VerdictEvent, state: bytes = b"") -> None:
        """Log the change, and return when Kafka has it."""
        log.info(
            "changed_by_a_person",
            subject=event.subject,
            penalty=event.penalty,
            actor=event.actor,
            reason=event.reason,
            verdict_id=event.verdict_id,
        )
        await self._audit.tell(event, state)
