"""The client for threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Self

import grpc

from enforcer.client.channel import list_options, name_target
from enforcer.client.decision import Decision
from enforcer.client.denials import Denials
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


class Client:
    """Asks enforcers before a backend does its work. Any number of threads may share one; make it after a fork.

    Nothing is ever asked twice once an enforcer may have begun with it: a repeated check would spend twice. A context manager;
    leaving it sends what was observed and closes.
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
        """Prepare; the first call connects. Arguments and errors are those of :class:`enforcer.client.AsyncClient`."""
        self._exchange = Exchange(compile_choices(without_enforcer), Denials() if remembers_denials else None)
        self.target = name_target(addresses)
        options = list_options(addresses, server_name=server_name, is_proxied=is_proxied)
        if credentials is None:
            self._channel = grpc.insecure_channel(self.target, options=options)
        else:
            self._channel = grpc.secure_channel(self.target, credentials, options=options)
        self._stub = enforcer_pb2_grpc.EnforcerStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._timeout_s = timeout_s
        self._observations = Observations()
        self._lock = threading.Lock()
        """Guards memory and observations."""
        self._reporting: threading.Thread | None = None
        self._stop = threading.Event()

    def check(self, user_id: str, action: str, cost: int = 1, attributes: Mapping[str, str] | None = None) -> Decision:
        """Ask for one decision, and take its tokens. Waits ``timeout_s`` at most.

        Arguments and errors are those of :meth:`enforcer.client.AsyncClient.check`.

        Raises:
            InvalidCheck: The content is out of bounds. Never serve the request because of it, and do not repeat it.
            NotPermitted: The enforcer does not let this client ask. Never serve the request because of it.
            NoDecision: ``without_enforcer`` says ``raise``. Tokens may be spent: do not ask again for this request.
        """
        with self._lock:
            asked = self._exchange.begin(Check(user_id, action, cost, dict(attributes or {})))
        if isinstance(asked, Decision):
            return asked
        try:
            response = self._stub.Check(asked.request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            return self._exchange.fail(asked, error)
        with self._lock:
            return self._exchange.finish(asked, response)

    def check_batch(self, checks: Sequence[Check]) -> list[Decision]:
        """Ask for up to 1,000 decisions by one call; each check is atomic, the batch is not. Answers stand in their order.

        Raises:
            InvalidCheck: Names the first check that is out of bounds, ``checks[3]: ...``. None was made.
            NotPermitted: As in :meth:`check`.
            NoDecision: As in :meth:`check`.
        """
        with self._lock:
            begun = begin_many(self._exchange, checks)
        asked = [one for one in begun if isinstance(one, Asked)]
        if not asked:
            return [one for one in begun if isinstance(one, Decision)]
        batch = enforcer_pb2.CheckBatchRequest(checks=[one.request for one in asked])
        try:
            response = self._stub.CheckBatch(batch, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            name_position(error, begun)
            decided = iter([self._exchange.fail(one, error) for one in asked])
        else:
            with self._lock:
                decided = iter([self._exchange.finish(*pair) for pair in zip(asked, response.results, strict=True)])
        return [one if isinstance(one, Decision) else next(decided) for one in begun]

    def observe(self, action: str, latency_s: float, *, is_error: bool = False, is_timeout: bool = False) -> None:
        """Count how the backend fared with one request; reported each second by a thread. Never waits, never raises.

        As :meth:`enforcer.client.AsyncClient.observe`.
        """
        with self._lock:
            self._observations.add(action, latency_s, time.time(), is_error=is_error, is_timeout=is_timeout)
            if self._reporting is None and not self._stop.is_set():
                self._reporting = threading.Thread(target=self._report_each_second, name="ratchet-outcomes", daemon=True)
                self._reporting.start()

    def _report_each_second(self) -> None:
        is_told = False
        while not self._stop.is_set():
            self._stop.wait(REPORT_EVERY_S)
            with self._lock:
                reports = self._observations.take()
            if not reports:
                continue
            request = enforcer_pb2.ReportOutcomesRequest(reports=reports)
            try:
                self._stub.ReportOutcomes(request, timeout=REPORT_TIMEOUT_S, metadata=self._metadata)
            except grpc.RpcError as error:
                if not is_told:
                    code, detail = read_status(error)
                    log.warning("outcomes are not reported: %s: %s", code.name, detail)
                is_told = True
            else:
                is_told = False

    def close(self) -> None:
        """Report what was observed, and close; checks of other threads under way fail as if the enforcer were away."""
        self._stop.set()
        if self._reporting is not None:
            self._reporting.join()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
