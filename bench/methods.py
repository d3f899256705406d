"""What is called: a gRPC method, its request as bytes with holes for users' ids, and how its answer is read."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ratchet.envoy import descriptor_pb2, rls_pb2
from ratchet.v1 import enforcer_pb2

ID_BYTES = 36
"""Length of the ids that the load fills in; they look like UUIDs."""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers of the fields in an answer, 0 where there is no such field."""

    item_field: int = 0
    """Repeated message with one decision each; 0: the answer is itself the decision."""
    code_field: int = 1
    """Varint with the outcome; absent reads as 0."""
    ok_codes: tuple[int, ...] = ()
    over_codes: tuple[int, ...] = ()
    error_field: int = 0
    """Message that says why there is no decision."""
    degraded_field: int = 0
    cached_field: int = 0


class Method(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One unary call. Anything that answers with an outcome can be written down so, other servers' protocols too."""

    path: str
    """``/package.Service/Method``."""
    body_hex: str
    holes: tuple[tuple[int, ...], ...]
    """For each decision of one call, the offsets of its user's id."""
    answer: Answer

    @property
    def decisions_per_call(self) -> int:
        """Decisions that one call asks for."""
        return len(self.holes)


def should_rate_limit(domain: str, descriptors: Sequence[Sequence[str]]) -> Method:
    """Envoy's rate limit service, version 3.

    Args:
        domain: Selects the policy.
        descriptors: The keys of each descriptor; the value of each is the user's id.
    """
    written = [
        descriptor_pb2.RateLimitDescriptor(
            entries=[descriptor_pb2.RateLimitDescriptor.Entry(key=key, value=_hold_place(0)) for key in keys]
        )
        for keys in descriptors
    ]
    body = rls_pb2.RateLimitRequest(domain=domain, descriptors=written).SerializeToString()
    code = rls_pb2.RateLimitResponse.Code
    # Metadata comes only with answers that were given without Redis.
    degraded_field = rls_pb2.RateLimitResponse.DYNAMIC_METADATA_FIELD_NUMBER
    answer = Answer(ok_codes=(code.OK,), over_codes=(code.OVER_LIMIT,), degraded_field=degraded_field)
    return Method("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", body.hex(), _find_holes(body, 1), answer)


def check(action: str, attributes: Sequence[str] = ()) -> Method:
    """``Enforcer.Check``; the attributes' values are the user's id."""
    body = _write_check(action, attributes, 0).SerializeToString()
    return Method("/ratchet.v1.Enforcer/Check", body.hex(), _find_holes(body, 1), _answer_of_check(0))


def check_batch(action: str, checks: int, attributes: Sequence[str] = ()) -> Method:
    """``Enforcer.CheckBatch`` with so many checks, each for a user of its own."""
    request = enforcer_pb2.CheckBatchRequest(checks=[_write_check(action, attributes, place) for place in range(checks)])
    body = request.SerializeToString()
    answer = _answer_of_check(enforcer_pb2.CheckBatchResponse.RESULTS_FIELD_NUMBER)
    return Method("/ratchet.v1.Enforcer/CheckBatch", body.hex(), _find_holes(body, checks), answer)


def _write_check(action: str, attributes: Sequence[str], place: int) -> enforcer_pb2.CheckRequest:
    user_id = _hold_place(place)
    return enforcer_pb2.CheckRequest(user_id=user_id, action=action, attributes=dict.fromkeys(attributes, user_id))


def _answer_of_check(item_field: int) -> Answer:
    response = enforcer_pb2.CheckResponse
    return Answer(
        item_field=item_field,
        code_field=response.OUTCOME_FIELD_NUMBER,
        ok_codes=(enforcer_pb2.OUTCOME_ALLOW,),
        over_codes=(enforcer_pb2.OUTCOME_DENY, enforcer_pb2.OUTCOME_BAN),
        degraded_field=response.DEGRADED_FIELD_NUMBER,
        cached_field=response.CACHED_FIELD_NUMBER,
    )


def _hold_place(place: int) -> str:
    return f"{place:#0{ID_BYTES}x}"


def _find_holes(body: bytes, decisions: int) -> tuple[tuple[int, ...], ...]:
    holes = []
    for place in range(decisions):
        mark, found = _hold_place(place).encode(), []
        at = body.find(mark)
        while at >= 0:
            found.append(at)
            at = body.find(mark, at + ID_BYTES)
        holes.append(tuple(found))
    return tuple(holes)
