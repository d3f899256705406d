"""Checks that are asked for in the same turn of an event loop travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc
import grpc.aio

from ratchet.v1 import enforcer_pb2, enforcer_pb2_grpc

MOST_TOGETHER = 128
"""As many as an enforcer asks Redis for at once; more would wait for each other."""

_REFUSED_WHOLE = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)
"""Of a batch: one of its checks is bad, or of an action that this client may not ask for. None was made."""

Metadata: TypeAlias = tuple[tuple[str, str], ...]
Answer: TypeAlias = "asyncio.Future[enforcer_pb2.CheckResponse]"


@dataclass(slots=True)
class Batcher:
    """Sends each check once, alone or in a batch. Belongs to one event loop.

    Nothing waits for company: what is asked for while the loop is busy with one turn leaves at its end. A batch that is refused
    for one bad check, or one that is not permitted, was not made at all: its checks are sent again, one by one, and only that
    one fails.
    """

    stub: enforcer_pb2_grpc.EnforcerAsyncStub
    timeout_s: float
    metadata: Metadata = ()
    _waiting: list[tuple[enforcer_pb2.CheckRequest, Answer]] = field(default_factory=list)
    _calls: set[asyncio.Task[None]] = field(default_factory=set)

    def submit(self, request: enforcer_pb2.CheckRequest) -> Answer:
        """Send one check soon; the future gets the answer or the ``AioRpcError``."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._send)
        answer: Answer = loop.create_future()
        self._waiting.append((request, answer))
        if len(self._waiting) >= MOST_TOGETHER:
            self._send()
        return answer

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            call = asyncio.get_running_loop().create_task(self._call(waiting))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, waiting: Sequence[tuple[enforcer_pb2.CheckRequest, Answer]]) -> None:
        deadline_s = asyncio.get_running_loop().time() + self.timeout_s
        try:
            if len(waiting) == 1:
                await self._call_alone(*waiting[0], self.timeout_s)
                return
            batch = enforcer_pb2.CheckBatchRequest(checks=[request for request, _ in waiting])
            try:
                response = await self.stub.CheckBatch(batch, timeout=self.timeout_s, metadata=self.metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REFUSED_WHOLE:
                    _fail([answer for _, answer in waiting], error)
                    return
                rest_s = max(0.0, deadline_s - asyncio.get_running_loop().time())
                await asyncio.gather(*[self._call_alone(request, answer, rest_s) for request, answer in waiting])
                return
            for (_, answer), result in zip(waiting, response.results, strict=True):
                if not answer.done():  # its caller may have left
                    answer.set_result(result)
        finally:
            for _, answer in waiting:
                answer.cancel()  # the client was closed; no effect on those that are done

    async def _call_alone(self, request: enforcer_pb2.CheckRequest, answer: Answer, timeout_s: float) -> None:
        try:
            response = await self.stub.Check(request, timeout=timeout_s, metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            _fail([answer], error)
        else:
            if not answer.done():
                answer.set_result(response)

    async def close(self) -> None:
        """End the calls under way; who waits for them is cancelled."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)


def _fail(answers: Sequence[Answer], error: grpc.aio.AioRpcError) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
