"""The one place where the examples speak gRPC with an enforcer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Self

import grpc
import grpc.aio

from ratchet.v1 import enforcer_pb2, enforcer_pb2_grpc

CHECK_TIMEOUT_S = 0.05
"""A decision takes a few ms; a backend's user must not wait for a limiter that is in trouble."""

# One connection attempt at a time would hold back the first calls after an enforcer comes back by up to two minutes.
_OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class EnforcerAwayError(Exception):
    """No decision: the enforcer did not answer in time or cannot be reached. Tokens may be spent: do not ask again.

    Attributes:
        why: The gRPC status in words of printable ASCII, for a header.
    """

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"no decision: {why}")


class CheckRefusedError(Exception):
    """The enforcer found the question itself wrong (INVALID_ARGUMENT). Never serve the request because of it."""


class EnforcerClient:
    """Asks one address, an enforcer's or that of the load balancer in front of several. Never retries.

    Belongs to the event loop that it is made on. An asynchronous context manager; leaving it closes the connection.
    """

    def __init__(self, target: str, *, timeout_s: float = CHECK_TIMEOUT_S) -> None:
        """Prepare; the first call connects.

        Args:
            target: ``host:port``.
            timeout_s: Longest wait for one decision.
        """
        self.target = target
        self._timeout_s = timeout_s
        # A channel with options of its own: with equal ones gRPC shares one connection between all channels of a process.
        self._channel = grpc.aio.insecure_channel(target, options=(*_OPTIONS, ("grpc.use_local_subchannel_pool", 1)))
        self._stub: enforcer_pb2_grpc.EnforcerAsyncStub = enforcer_pb2_grpc.EnforcerStub(self._channel)

    async def check(
        self, *, user: str, action: str, cost: int = 1, attributes: Mapping[str, str]
    ) -> enforcer_pb2.CheckResponse:
        """Ask for one decision, and take its tokens.

        Args:
            user: Who asks; 1 to 1,024 bytes.
            action: What is asked for; selects the policy.
            cost: Whole tokens; 0 reads and changes nothing.
            attributes: Further facts, such as ``ip``, the canonical address (``examples.client_ip``).

        Raises:
            EnforcerAwayError: No answer in time. Serve or refuse as the backend's own rule says, and do not ask again.
            CheckRefusedError: The content is out of bounds. Refuse the request.
        """
        request = enforcer_pb2.CheckRequest(user_id=user, action=action, cost=cost, attributes=attributes)
        try:
            return await self._stub.Check(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise CheckRefusedError(error.details() or "invalid argument") from error
            raise EnforcerAwayError(error.code().name.lower().replace("_", " ")) from error

    async def wait_until_reachable(self, within_s: float) -> None:
        """Return when the connection is up.

        Raises:
            EnforcerAwayError: Nobody listens there within ``within_s``.
        """
        state = self._channel.get_state(try_to_connect=True)
        try:
            async with asyncio.timeout(within_s):
                while state is not grpc.ChannelConnectivity.READY:
                    await self._channel.wait_for_state_change(state)
                    state = self._channel.get_state(try_to_connect=True)
        except TimeoutError as error:
            raise EnforcerAwayError(f"nobody answers at {self.target}") from error

    async def close(self) -> None:
        """Close the connection; calls under way fail."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
