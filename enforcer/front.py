"""The native front: calls reach Python in batches, and are answered by id.

It serves the calls that are hot; everything else (health, reflection, streams) goes to a grpcio server on a Unix socket
behind it, which serves the same services.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import grpc
import structlog
from google.protobuf.message import DecodeError
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from enforcer.calls.access import Access, Caller, PermissionDenied, Unauthenticated
from enforcer.calls.decider import Decider
from enforcer.decisions.decision import Decision
from enforcer.decisions.plan import Plan
from enforcer.decisions.planner import Planner
from enforcer.encoding import encode_batch_response, encode_response, encode_rls_response
from enforcer.envoy.rls_request import parse_request, plan_payload, plan_request, sign_request
from enforcer.limits.check import InvalidCheck
from enforcer.service import plan_batch, plan_check, plan_for

MOST_EVENTS_PER_BATCH = 128
IO_THREADS = 1
GATHER_S = 0.001
"""After a batch the next one gathers for so long. A call that comes alone waits for nothing; under load, handing calls over one
by one would cost more than deciding them."""
LARGEST_REQUEST_BYTES = 8 * 1024 * 1024
LARGEST_METADATA_BYTES = 16 * 1024
MOST_STREAMS = 1024
"""Calls that one connection may have open."""
KEEPALIVE_MS = 60_000
"""A connection that is silent for so long is asked for a sign of life; one that gives none within 20 s is closed."""

Encode = Callable[[Plan, Decision], bytes]
Event = tuple[int, int, int, bytes | None, bytes | str | None]

_INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]
_RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED.value[0]
_PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED.value[0]
_INTERNAL = grpc.StatusCode.INTERNAL.value[0]

log = structlog.get_logger(__name__)


class Front:
    """Serves ``Check``, ``CheckBatch`` and ``ShouldRateLimit`` from the native front, on one event loop."""

    def __init__(
        self, decider: Decider, access: Access, address: str, fallback_socket: str, *, is_shared: bool = False
    ) -> None:
        """Bind the address; nobody is answered before ``start``.

        Args:
            decider: Decides.
            access: Who may make the hot calls; the server behind the socket checks the others.
            address: ``host:port``; port 0 takes a free one.
            fallback_socket: Unix socket of the grpcio server.
            is_shared: Other processes of ours listen on the same port.

        Raises:
            OSError: The address is taken, or is none of this host.
        """
        self._decider, self._access = decider, access
        self._calls: tuple[Callable[[int, bytes, Caller | None], None], ...] = (
            self._check,
            self._check_batch,
            self._should_rate_limit,
        )
        paths = (
            "/ratchet.v1.Enforcer/Check",
            "/ratchet.v1.Enforcer/CheckBatch",
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        )
        self._front = NativeGrpcFront(
            address,
            [(path, False) for path in paths],
            io_threads=IO_THREADS,
            client_key_metadata="authorization" if access.callers is not None else None,
            keepalive_time_ms=KEEPALIVE_MS,
            max_concurrent_streams=MOST_STREAMS,
            max_metadata_size=LARGEST_METADATA_BYTES,
            reuse_port=is_shared,
        )
        self._front.set_fallback(fallback_socket)
        self._loop = asyncio.get_running_loop()
        self.port = self._front.bound_port

    def start(self) -> None:
        """Listen."""
        self._front.start()
        threading.Thread(target=self._receive, name="ratchet-front", daemon=True).start()

    async def close(self) -> None:
        """Stop listening; calls that wait for Redis have had their answer before."""
        await self._loop.run_in_executor(None, self._front.close)

    def _receive(self) -> None:
        """On a thread of its own: wait without the GIL, hand whole batches to the loop."""
        while (events := self._front.recv_batch(MOST_EVENTS_PER_BATCH)) is not None:
            try:
                self._loop.call_soon_threadsafe(self._handle, events)
            except RuntimeError:  # the loop has ended
                return
            time.sleep(GATHER_S)

    def _handle(self, events: Sequence[Event]) -> None:
        calls, fail = self._calls, self._front.fail
        access, confined = self._access, None
        is_open = access.callers is None
        for kind, call_id, method, payload, authorization in events:
            if kind != EVENT_CALL or payload is None:
                continue  # the caller left; its tokens are spent all the same
            try:
                if not is_open:
                    # Without the metadata, the peer's address stands there, as text.
                    caller = access.admit("check", authorization if isinstance(authorization, bytes) else None)
                    confined = caller if caller.is_confined or self._decider.planner.names_callers else None
                if len(payload) > LARGEST_REQUEST_BYTES:
                    fail(
                        call_id,
                        _RESOURCE_EXHAUSTED,
                        f"the request has {len(payload)} bytes; {LARGEST_REQUEST_BYTES} are allowed",
                    )
                else:
                    calls[method](call_id, payload, confined)
            except InvalidCheck as error:
                fail(call_id, _INVALID_ARGUMENT, str(error))
            except Unauthenticated as error:
                access.refused["UNAUTHENTICATED"] += 1
                fail(call_id, _UNAUTHENTICATED, str(error))
            except PermissionDenied as error:
                access.refused["PERMISSION_DENIED"] += 1
                fail(call_id, _PERMISSION_DENIED, str(error))
            except DecodeError:
                fail(call_id, _INTERNAL, "the request is not the message that this method takes")
            except Exception:  # the edge: one call's fault must not cost the others of its batch their answers
                log.exception("call_failed", method=method)
                self._decider.failed_calls += 1
                fail(call_id, _INTERNAL, "the enforcer failed on this call")

    def _check(self, call_id: int, payload: bytes, confined: Caller | None) -> None:
        planner = self._decider.planner
        plan = planner.recall(payload) or plan_check(payload, planner)
        if confined is not None:
            plan = plan_for(confined, plan, planner)
        self._decider.submit(plan, partial(self._answer, planner, call_id, payload, encode_response))

    def _should_rate_limit(self, call_id: int, payload: bytes, confined: Caller | None) -> None:
        planner = self._decider.planner
        plan = planner.recall(payload) or plan_payload(payload, planner)
        if confined is not None:
            confined.permit(plan)
            if planner.names_callers:
                request = parse_request(payload)
                sign_request(request, confined)
                plan = plan_request(request, planner)
        self._decider.submit(plan, partial(self._answer, planner, call_id, payload, encode_rls_response))

    def _answer(self, planner: Planner, call_id: int, payload: bytes, encode: Encode, plan: Plan, decision: Decision) -> None:
        self._front.respond(call_id, encode(plan, decision))
        if decision.outcome != "allow" and not decision.is_degraded:
            planner.expect(payload, plan)  # the one that planned it: by now another may be in force

    def _check_batch(self, call_id: int, payload: bytes, confined: Caller | None) -> None:
        plans = plan_batch(payload, self._decider.planner)
        if confined is not None:
            plans = [plan_for(confined, plan, self._decider.planner) for plan in plans]
        results: list[bytes] = [b""] * len(plans)
        waiting = len(plans)

        def answer(position: int, plan: Plan, decision: Decision) -> None:
            nonlocal waiting
            results[position] = encode_response(plan, decision)
            waiting -= 1
            if not waiting:
                self._front.respond(call_id, encode_batch_response(results))

        for position, plan in enumerate(plans):
            self._decider.submit(plan, partial(answer, position))
