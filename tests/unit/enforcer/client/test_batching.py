"""Which checks travel together, on a stub that keeps what it is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from enforcer.client import batching
from enforcer.client.batching import Batcher
from ratchet.v1 import enforcer_pb2
from tests.unit.enforcer.client.failures import make_error

REFUSED = {"bad": grpc.StatusCode.INVALID_ARGUMENT, "forbidden": grpc.StatusCode.PERMISSION_DENIED}


class KeptCalls:
    """Answers with the policy named as the user; refuses the users ``bad`` and ``forbidden``."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.failure: grpc.StatusCode | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def Check(self, request: enforcer_pb2.CheckRequest, **_: Any) -> enforcer_pb2.CheckResponse:  # noqa: N802
        self.calls.append([request.user_id])
        await self.may_answer.wait()
        if self.failure is not None:
            raise make_error(self.failure)
        if request.user_id in REFUSED:
            raise make_error(REFUSED[request.user_id])
        return enforcer_pb2.CheckResponse(policy=request.user_id)

    async def CheckBatch(  # noqa: N802
        self, request: enforcer_pb2.CheckBatchRequest, **_: Any
    ) -> enforcer_pb2.CheckBatchResponse:
        users = [check.user_id for check in request.checks]
        self.calls.append(users)
        await self.may_answer.wait()
        if self.failure is not None:
            raise make_error(self.failure)
        for user in users:
            if user in REFUSED:
                raise make_error(REFUSED[user])
        return enforcer_pb2.CheckBatchResponse(results=[enforcer_pb2.CheckResponse(policy=user) for user in users])


@pytest.fixture
async def stub() -> KeptCalls:
    return KeptCalls()


@pytest.fixture
async def batcher(stub: KeptCalls) -> Batcher:
    return Batcher(stub, timeout_s=5)  # type: ignore[arg-type]


async def ask(batcher: Batcher, user: str) -> str:
    try:
        return (await batcher.submit(enforcer_pb2.CheckRequest(user_id=user))).policy
    except grpc.aio.AioRpcError as error:
        return error.code().name


async def until_asked(stub: KeptCalls, calls: int) -> None:
    async with asyncio.timeout(20):
        while len(stub.calls) < calls:  # noqa: ASYNC110 the call has no event
            await asyncio.sleep(0)


async def test_what_is_asked_in_one_turn_travels_together_and_each_gets_its_own(batcher: Batcher, stub: KeptCalls) -> None:
    assert await asyncio.gather(*[ask(batcher, user) for user in "abc"]) == ["a", "b", "c"]
    assert await ask(batcher, "d") == "d"
    assert stub.calls == [["a", "b", "c"], ["d"]]


async def test_nobody_waits_for_a_call_under_way(batcher: Batcher, stub: KeptCalls) -> None:
    stub.may_answer.clear()
    first = asyncio.create_task(ask(batcher, "a"))
    await until_asked(stub, 1)
    second = asyncio.create_task(ask(batcher, "b"))
    await until_asked(stub, 2)
    stub.may_answer.set()
    assert (await first, await second) == ("a", "b")


@pytest.mark.parametrize("user", REFUSED)
async def test_one_bad_check_fails_alone(batcher: Batcher, stub: KeptCalls, user: str) -> None:
    answers = await asyncio.gather(*[ask(batcher, each) for each in ("a", user, "c")])
    assert answers == ["a", REFUSED[user].name, "c"]
    assert stub.calls == [["a", user, "c"], ["a"], [user], ["c"]]


@pytest.mark.parametrize("code", [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE])
async def test_a_batch_that_may_have_been_made_is_not_sent_again(
    batcher: Batcher, stub: KeptCalls, code: grpc.StatusCode
) -> None:
    stub.failure = code
    assert await asyncio.gather(*[ask(batcher, user) for user in "ab"]) == [code.name] * 2
    assert stub.calls == [["a", "b"]]


async def test_a_large_turn_is_shared_out(batcher: Batcher, stub: KeptCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MOST_TOGETHER", 2)
    assert await asyncio.gather(*[ask(batcher, user) for user in "abcde"]) == list("abcde")
    assert stub.calls == [["a", "b"], ["c", "d"], ["e"]]


async def test_a_caller_who_leaves_takes_nobody_along(batcher: Batcher, stub: KeptCalls) -> None:
    stub.may_answer.clear()
    leaver, stayer = asyncio.create_task(ask(batcher, "a")), asyncio.create_task(ask(batcher, "b"))
    await until_asked(stub, 1)
    leaver.cancel()
    stub.may_answer.set()
    assert await stayer == "b"
    assert leaver.cancelled()


async def test_closing_cancels_who_still_waits(batcher: Batcher, stub: KeptCalls) -> None:
    stub.may_answer.clear()
    waiting = asyncio.create_task(ask(batcher, "a"))
    await until_asked(stub, 1)
    await batcher.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
