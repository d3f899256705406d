"""Envoy's rate limit quota service, version 3: data planes count for themselves, and report what they used.

A domain and a bucket id are limited exactly as a request of the rate limit service with one descriptor of the same keys and
values. Never an error on content: a bucket without an id is left out, and so is one whose id is no text, for Envoy could not
read an answer about it and would end the stream that serves everybody behind it.

Source: https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/rate_limit_quota/v3/rlqs.proto
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from enforcer.calls.guard import current_caller
from enforcer.envoy.quota import Assignment
from enforcer.envoy.quota_keeper import MOST_STREAMS, QuotaKeeper, Stream, Told, plan_bucket
from enforcer.envoy.quota_usage import BucketId, Usage
from enforcer.limits.bucket import LARGEST_EXACT
from ratchet.envoy import raw_pb2, rlqs_pb2, strategy_pb2

SERVICE = rlqs_pb2.DESCRIPTOR.services_by_name["RateLimitQuotaService"].full_name

MOST_ACTIONS = 1000
"""Buckets of one response."""

_Reports = raw_pb2.RawUsageReports
_Response = rlqs_pb2.RateLimitQuotaResponse
_Action = _Response.BucketAction
Context = grpc.aio.ServicerContext[_Reports, _Response]
_Strategy = strategy_pb2.RateLimitStrategy


class RateLimitQuotaService:
    """Assigns quotas to Envoy. Plain grpcio code: it runs on either transport."""

    def __init__(self, keeper: QuotaKeeper) -> None:
        self._keeper = keeper

    async def StreamRateLimitQuotas(  # noqa: N802 Envoy's name
        self, request_iterator: AsyncIterator[_Reports], context: Context
    ) -> None:
        """Take reports and write assignments, until the data plane ends the stream.

        RESOURCE_EXHAUSTED when there are too many streams, INVALID_ARGUMENT when the first message has no domain: without one
        nothing can be assigned, and the data plane goes by its own configuration.

        Raises:
            PermissionDenied: The domain is no action of the caller's.
        """
        stream: Stream | None = None
        writer: asyncio.Task[None] | None = None
        try:
            try:
                async for reports in request_iterator:
                    if stream is None:
                        stream = await self._open(reports, context)
                        writer = asyncio.get_running_loop().create_task(_write(stream, context))
                    await self._keeper.report(stream, self._read(reports))
            except asyncio.CancelledError:
                if stream is None or not stream.is_ended:
                    raise
            if stream is not None and writer is not None:
                stream.end()
                await writer  # not cancelled: a write that is under way must end before the call does
        finally:
            if writer is not None:
                writer.cancel()
            if stream is not None:
                self._keeper.close(stream)

    async def _open(self, reports: _Reports, context: Context) -> Stream:
        if not reports.domain:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "domain is empty in the first message")
        domain = reports.domain.decode(errors="backslashreplace")
        current_caller().permit(plan_bucket(self._keeper.decider.planner, domain, ()))
        stream = self._keeper.open(domain)
        if stream is None:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MOST_STREAMS} streams are open; no more are allowed")
            raise AssertionError  # the abort raised
        return stream

    def _read(self, reports: _Reports) -> list[Usage]:
        usages = [read_usage(usage) for usage in reports.bucket_quota_usages]
        self._keeper.stats.unreadable += usages.count(None)
        return [usage for usage in usages if usage is not None]


def add_rate_limit_quota_service(service: RateLimitQuotaService, server: grpc.aio.Server) -> None:
    """Register the service, in such a way that texts which are no UTF-8 do not end a stream."""
    handler = grpc.stream_stream_rpc_method_handler(
        service.StreamRateLimitQuotas,
        request_deserializer=_Reports.FromString,
        response_serializer=_Response.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"StreamRateLimitQuotas": handler}),))


async def _write(stream: Stream, context: Context) -> None:
    while not stream.is_ended or stream.outbox:
        await stream.is_ready.wait()
        stream.is_ready.clear()
        told, stream.outbox = list(stream.outbox.items()), {}
        for start in range(0, len(told), MOST_ACTIONS):
            actions = [write_action(bucket_id, each) for bucket_id, each in told[start : start + MOST_ACTIONS]]
            await context.write(_Response(bucket_action=actions))


def read_usage(usage: raw_pb2.RawUsage) -> Usage | None:
    """Read what is reported about one bucket; None: it has no id, or one that is no UTF-8."""
    try:
        entries = {entry.key.decode(): entry.value.decode() for entry in usage.bucket_id.bucket}
    except UnicodeDecodeError:
        return None
    allowed, denied = (min(each, LARGEST_EXACT) for each in (usage.num_requests_allowed, usage.num_requests_denied))
    return Usage(tuple(sorted(entries.items())), allowed, denied) if entries else None


def write_action(bucket_id: BucketId, told: Told | None) -> _Action:
    """Write what a data plane is told about one bucket; None: to abandon it."""
    action = _Action(bucket_id=rlqs_pb2.BucketId(bucket=dict(bucket_id)))
    if told is None:
        action.abandon_action.SetInParent()
    else:
        action.quota_assignment_action.assignment_time_to_live.CopyFrom(Duration(seconds=told.lifetime_s))
        action.quota_assignment_action.rate_limit_strategy.CopyFrom(write_strategy(told.assignment))
    return action


def write_strategy(assignment: Assignment) -> _Strategy:
    """Write one assignment. Every strategy is explicit: an unset one makes Envoy keep what it had."""
    if assignment.kind == "allow":
        return _Strategy(blanket_rule=_Strategy.ALLOW_ALL)
    if assignment.kind == "deny":
        return _Strategy(blanket_rule=_Strategy.DENY_ALL)
    return _Strategy(
        token_bucket=strategy_pb2.TokenBucket(
            max_tokens=assignment.max_tokens,
            tokens_per_fill=UInt32Value(value=assignment.tokens_per_fill),
            fill_interval=Duration(seconds=assignment.fill_interval_s),
        )
    )
