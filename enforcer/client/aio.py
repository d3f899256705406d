"""The client for asyncio."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Self

import grpc
import grpc.aio

from enforcer.client.batching import Batcher
from enforcer.client.channel import list_options, name_target
from enforcer.client.decision import Decision
from enforcer.client.denials import Denials
from enforcer.client.errors import NoDecision
from enforcer.client.exchange import (
    REPORT_EVERY_S,
    REPORT_TIMEOUT_S,
    TIMEOUT_S,
    Asked,
    Exchange,
    WithoutEnforcer,
    compile_choices,
    read_status,
)
from enforcer.client.many import begin_many, name_position
from enforcer.client.observations import Observations
from enforcer.limits.check import Check
from ratchet.v1 import enforcer_pb2, enforcer_pb2_grpc

log = logging.getLogger("enforcer.client")


class AsyncClient:
    """Asks enforcers before a backend does its work. Belongs to the event loop on which it is first used.

    Checks that are awaited at the same time travel together. Nothing is ever asked twice once an enforcer may have begun with
    it: a repeated check would spend twice. An asynchronous context manager; leaving it sends what was observed and closes.
    """

    def __init__(
        self,
        *addresses: str,
        without_enforcer: WithoutEnforcer | Mapping[str, WithoutEnforcer],
        timeout_s: float = TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
        server_name: str = "",
        token: str = "",
        is_proxied: bool = False,
        remembers_denials: bool = True,
    ) -> None:
        """Prepare; the first call connects.

        Args:
            addresses: One ``host:port`` or other gRPC name, which may resolve to many enforcers, or several ``ip:port``. Calls
                go to each in turn, except to those that are away or drain.
            without_enforcer: When there is no decision: ``allow`` (fail open), ``deny`` (fail closed) or ``raise``; one for all
                actions, or one for each and one for ``*``. There is no default: who runs the backend has to decide it. Never
                applies where the enforcer answered that the check or the client itself is wrong.
            timeout_s: Longest wait for one decision.
            credentials: TLS, from ``grpc.ssl_channel_credentials``; none: plain text.
            server_name: Name in the enforcers' certificate where it is not the address, as with several addresses.
            token: Bearer token that the enforcer knows this client by.
            is_proxied: The address is that of a proxy such as Envoy, which balances and looks after health.
            remembers_denials: Answer from memory what is certainly denied, for a second at most.

        Raises:
            ValueError: The addresses or ``without_enforcer`` are wrong.
        """
        self._exchange = Exchange(compile_choices(without_enforcer), Denials() if remembers_denials else None)
        self.target = name_target(addresses)
        self._options = list_options(addresses, server_name=server_name, is_proxied=is_proxied)
        self._credentials = credentials
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._timeout_s = timeout_s
        self._observations = Observations()
        self._reporting: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        """Made at its first use: applications are built before the loop runs that they serve on."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, options=self._options)
        return grpc.aio.secure_channel(self.target, self._credentials, options=self._options)

    @cached_property
    def _stub(self) -> enforcer_pb2_grpc.EnforcerAsyncStub:
        return enforcer_pb2_grpc.EnforcerStub(self._channel)

    @cached_property
    def _batcher(self) -> Batcher:
        return Batcher(self._stub, self._timeout_s, self._metadata)

    async def check(self, user_id: str, action: str, cost: int = 1, attributes: Mapping[str, str] | None = None) -> Decision:
        """Ask for one decision, and take its tokens. Waits ``timeout_s`` at most.

        Args:
            user_id: Who asks; 1 to 1,024 bytes.
            action: What is asked for; 1 to 128 printable ASCII characters without spaces. Selects the policy.
            cost: Whole tokens; 0 reads and changes nothing.
            attributes: Further facts, such as ``ip``; those that the policies declare are limited by.

        Raises:
            InvalidCheck: The content is out of bounds. Never serve the request because of it, and do not repeat it.
            NotPermitted: The enforcer does not let this client ask. Never serve the request because of it.
            NoDecision: ``without_enforcer`` says ``raise``. Tokens may be spent: do not ask again for this request.
        """
        asked = self._exchange.begin(Check(user_id, action, cost, dict(attributes or {})))
        if isinstance(asked, Decision):
            return asked
        try:
            response = await self._batcher.submit(asked.request)
        except grpc.aio.AioRpcError as error:
            return self._exchange.fail(asked, error)
        return self._exchange.finish(asked, response)

    async def check_batch(self, checks: Sequence[Check]) -> list[Decision]:
        """Ask for up to 1,000 decisions by one call; each check is atomic, the batch is not. Answers stand in their order.

        Raises:
            InvalidCheck: Names the first check that is out of bounds, ``checks[3]: ...``. None was made.
            NotPermitted: As in :meth:`check`.
            NoDecision: As in :meth:`check`.
        """
        begun = begin_many(self._exchange, checks)
        asked = [one for one in begun if isinstance(one, Asked)]
        if not asked:
            return [one for one in begun if isinstance(one, Decision)]
        batch = enforcer_pb2.CheckBatchRequest(checks=[one.request for one in asked])
        try:
            response = await self._stub.CheckBatch(batch, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            name_position(error, begun)
            decided = iter([self._exchange.fail(one, error) for one in asked])
        else:
            decided = iter([self._exchange.finish(*pair) for pair in zip(asked, response.results, strict=True)])
        return [one if isinstance(one, Decision) else next(decided) for one in begun]

    def observe(self, action: str, latency_s: float, *, is_error: bool = False, is_timeout: bool = False) -> None:
        """Count how the backend fared with one request; reported each second in the background. Never waits, never raises.

        Feeds the adaptive throttle of the action, never a ban. A report that does not arrive is lost: sent again, it might be
        counted twice.

        Args:
            action: As in the check.
            latency_s: How long the backend took; of a request that ran into its timeout, the timeout.
            is_error: It failed by the backend's fault, as with a 5xx status.
            is_timeout: It ran into its timeout. Requests that their caller gave up are not to be observed.
        """
        self._observations.add(action, latency_s, time.time(), is_error=is_error, is_timeout=is_timeout)
        if self._reporting is None and not self._stop.is_set():
            self._reporting = asyncio.get_running_loop().create_task(self._report_each_second())

    async def _report_each_second(self) -> None:
        is_told = False
        while not self._stop.is_set():
            try:
                async with asyncio.timeout(REPORT_EVERY_S):
                    await self._stop.wait()
            except TimeoutError:
                pass
            reports = self._observations.take()
            if not reports:
                continue
            request = enforcer_pb2.ReportOutcomesRequest(reports=reports)
            try:
                await self._stub.ReportOutcomes(request, timeout=REPORT_TIMEOUT_S, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                if not is_told:
                    log.warning("outcomes are not reported: %s", ": ".join((error.code().name, read_status(error)[1])))
                is_told = True
            else:
                is_told = False

    async def wait_until_reachable(self, within_s: float) -> None:
        """Return when there is a connection; for a start that should not begin with failures.

        Raises:
            NoDecision: None within ``within_s``.
        """
        state = self._channel.get_state(try_to_connect=True)
        try:
            async with asyncio.timeout(within_s):
                while state is not grpc.ChannelConnectivity.READY:
                    await self._channel.wait_for_state_change(state)
                    state = self._channel.get_state(try_to_connect=True)
        except TimeoutError as error:
            raise NoDecision(f"nobody answers at {self.target}") from error

    async def close(self) -> None:
        """Report what was observed, and close; checks under way are cancelled."""
        self._stop.set()
        await self._batcher.close()
        if self._reporting is not None:
            await self._reporting
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
