"""Where simulated requests go: to the example backend over HTTP, or straight to an enforcer over gRPC."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol, Self
from urllib.parse import urlsplit

import aiohttp

from enforcer.client import AsyncClient, Decision, InvalidCheck, NoDecision
from enforcer.client.headers import FAIL_OPEN_HEADER, OUTCOME_HEADER
from examples.actors import Step
from examples.tally import Answer, Outcome

GRPC_TIMEOUT_S = 2.0
"""A load generator wants to see slow answers, so it waits longer for them than a backend would."""
HTTP_TIMEOUT_S = 5.0

_BY_HEADER: dict[str, Outcome] = {"allow": "allow", "deny": "deny", "ban": "ban"}


class TargetError(ValueError):
    """What was given names no target; the message says what would."""


class Target(Protocol):
    """Takes steps and tells what they came to. An asynchronous context manager."""

    async def send(self, step: Step) -> Answer:
        """Send one request; never raises on what the other side does."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...


class GrpcTarget:
    """An enforcer, or the load balancer in front of several."""

    def __init__(self, address: str) -> None:
        """Prepare; ``address`` is ``host:port``."""
        self._client = open_witness(address)

    async def send(self, step: Step) -> Answer:
        """Ask for one decision; an enforcer that is away makes an ``error``."""
        return await ask(self._client, user=step.user, action=step.action, attributes={"ip": step.ip})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


class HttpTarget:
    """The example backend. The step's address travels as X-Forwarded-For, which the backend believes from loopback."""

    def __init__(self, url: str) -> None:
        """Prepare; ``url`` is ``http://host:port``."""
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def send(self, step: Step) -> Answer:
        """Send one login or search; an answer that no backend of ours gives makes an ``error``."""
        if self._session is None:
            raise RuntimeError("send only inside `async with`")
        headers = {"x-forwarded-for": step.ip, "x-user": step.user}
        started = time.perf_counter()
        try:
            if step.action == "login":
                credentials = {"user": step.user, "password": step.text}
                request = self._session.post(f"{self._url}/login", json=credentials, headers=headers)
            else:
                request = self._session.get(f"{self._url}/search", params={"q": step.text}, headers=headers)
            async with request as response:
                body = await response.json(content_type=None) if response.status >= 400 else {}
                outcome, why = _read_answer(response.status, response.headers.get(OUTCOME_HEADER, ""), body)
                if FAIL_OPEN_HEADER in response.headers:
                    outcome, why = "open", response.headers[FAIL_OPEN_HEADER]
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            outcome, why = "error", type(error).__name__
        return Answer(step.user, step.action, outcome, why, time.perf_counter() - started)

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()


def open_target(address: str) -> Target:
    """Make the target that ``http://host:port`` or ``grpc://host:port`` names. Call it on the loop that will use it.

    Raises:
        TargetError: It is of neither form.
    """
    parts = urlsplit(address)
    if parts.hostname and parts.scheme == "grpc":
        return GrpcTarget(parts.netloc)
    if parts.hostname and parts.scheme == "http":
        return HttpTarget(address)
    raise TargetError(f"{address!r} is neither http://host:port nor grpc://host:port")


def open_witness(address: str, timeout_s: float = GRPC_TIMEOUT_S) -> AsyncClient:
    """Make a client that shows what enforcers do: it sends every check, waits long, and raises where there is no decision."""
    return AsyncClient(address, without_enforcer="raise", timeout_s=timeout_s, is_proxied=True, remembers_denials=False)


async def ask(client: AsyncClient, *, user: str, action: str, attributes: Mapping[str, str]) -> Answer:
    """Ask for one decision and time it; no decision makes an ``error``."""
    started = time.perf_counter()
    try:
        decision = await client.check(user, action, attributes=attributes)
    except (NoDecision, InvalidCheck) as error:
        return Answer(user, action, "error", str(error), time.perf_counter() - started)
    took_s = time.perf_counter() - started
    return Answer(user, action, decision.outcome, explain(decision), took_s, decision.is_degraded)


def explain(decision: Decision) -> str:
    """Say in a word why a check was refused: the rule of a ban, the limits of a denial; empty when it was allowed."""
    if decision.ban is not None:
        return decision.ban.rule or "operator"
    if not decision.is_allowed:
        refusing = [limit.label for limit in decision.limits if limit.is_refused and not limit.is_shadow]
        return ", ".join(refusing) or decision.reason
    return ""


def _read_answer(status: int, told: str, body: object) -> tuple[Outcome, str]:
    if told not in _BY_HEADER:
        return ("open", "served unasked") if status == 200 else ("error", f"HTTP {status}")
    problem = body if isinstance(body, dict) else {}
    if told == "ban":
        return "ban", str(problem.get("ban_rule") or "operator")
    if told == "deny":
        return "deny", ", ".join(map(str, problem.get("violated-policies", ()))) or "limit"
    return "allow", ""
