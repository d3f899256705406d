"""An explicit batch: what is sent of it, and which of its checks an enforcer found wrong. No IO."""

from __future__ import annotations

import re
from collections.abc import Sequence

import grpc

from enforcer.client.decision import Decision
from enforcer.client.exchange import Asked, Exchange, read_status
from enforcer.limits.check import MOST_CHECKS_PER_BATCH, Check, InvalidCheck

_POSITION = re.compile(r"checks\[(\d+)\]")


def begin_many(exchange: Exchange, checks: Sequence[Check]) -> list[Asked | Decision]:
    """Answer from memory what can be, and say what to send.

    Raises:
        InvalidCheck: One of them is out of bounds, or there are too many. Nothing was asked.
    """
    if len(checks) > MOST_CHECKS_PER_BATCH:
        raise InvalidCheck(f"checks has {len(checks)} entries; at most {MOST_CHECKS_PER_BATCH} are allowed")
    begun: list[Asked | Decision] = []
    for check in checks:
        try:
            begun.append(exchange.begin(check))
        except InvalidCheck as error:
            raise InvalidCheck(f"checks[{len(begun)}]: {error}") from error
    return begun


def name_position(error: grpc.RpcError, begun: Sequence[Asked | Decision]) -> None:
    """Raise what an enforcer found wrong, with the position among the caller's checks; other errors are none of this.

    Raises:
        InvalidCheck: The enforcer found one of the checks out of bounds. None was made.
    """
    code, detail = read_status(error)
    if code is not grpc.StatusCode.INVALID_ARGUMENT:
        return
    sent = [position for position, one in enumerate(begun) if isinstance(one, Asked)]

    def translate(found: re.Match[str]) -> str:
        position = int(found[1])
        return f"checks[{sent[position]}]" if position < len(sent) else found[0]

    raise InvalidCheck(_POSITION.sub(translate, detail, count=1)) from error
