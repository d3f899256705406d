"""Which check an HTTP request is, and what its decision becomes: what the middleware and the decorator share."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from enforcer.client.aio import AsyncClient
from enforcer.client.client_ip import Network, find_client_ip, parse_networks
from enforcer.client.errors import NoDecision, NotPermitted
from enforcer.client.headers import NO_DECISION_RETRY_S, PROBLEM_CONTENT_TYPE, list_older_headers
from enforcer.limits.check import InvalidCheck

Scope: TypeAlias = MutableMapping[str, Any]
"""Of one connection (ASGI 3)."""
FindUser: TypeAlias = Callable[[Scope], str | Awaitable[str | None] | None]

LEAST_ERROR = 500
"""Statuses from here on are the backend's own fault."""
TIMEOUT_STATUS = 504

log = logging.getLogger("enforcer.client")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a request is answered."""

    status: int
    """200: serve it."""
    headers: Mapping[str, str]
    """To set on the response, whatever its status ends up as."""
    body: bytes = b""
    """Of a refusal, as ``application/problem+json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Asks one decision for one HTTP request.

    Attributes:
        client: Asks.
        user: Whom a request is counted for, such as the user of its session. None: the client's address, so that those who did
            not log in do not share one bucket.
        cost: Tokens.
        attributes: Further facts about a request; ``ip`` is there already.
        trusted_proxies: Networks, such as ``10.0.0.0/8``, whose X-Forwarded-For is believed.
        has_older_headers: Send X-RateLimit-Limit, -Remaining and -Reset too.
    """

    client: AsyncClient
    user: FindUser
    cost: int = 1
    attributes: Callable[[Scope], Mapping[str, str]] | None = None
    trusted_proxies: Sequence[str] = ()
    has_older_headers: bool = False
    _networks: tuple[Network, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_networks", parse_networks(self.trusted_proxies))

    async def ask(self, scope: Scope, action: str) -> HttpAnswer:
        """Ask, and say what to answer: never an exception, so that nothing passes by one.

        Args:
            scope: Of the request.
            action: Of the check.
        """
        peer = scope.get("client")
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        ip = find_client_ip(peer[0] if peer else "", forwarded, trusted_proxies=self._networks)
        found = self.user(scope)
        user = await found if inspect.isawaitable(found) else found
        attributes = {"ip": ip, **(self.attributes(scope) if self.attributes is not None else {})}
        try:
            decision = await self.client.check(user or ip, action, self.cost, attributes)
        except InvalidCheck as error:
            return _refuse(400, "Bad Request", str(error))
        except NotPermitted as error:
            log.error("refused %s: the enforcer does not let this client ask: %s", action, error)  # noqa: TRY400
            return _refuse(503, "Service Unavailable", "There is no decision about this request.")
        except NoDecision as error:
            return _refuse(503, "Service Unavailable", f"There is no decision about this request ({error.why}).")
        headers = decision.headers
        if self.has_older_headers:
            headers |= list_older_headers(decision)
        problem = decision.problem
        if problem is None:
            return HttpAnswer(200, headers)
        return HttpAnswer(decision.http_status, {**headers, "Content-Type": PROBLEM_CONTENT_TYPE}, json.dumps(problem).encode())


def _refuse(status: int, title: str, detail: str) -> HttpAnswer:
    headers = {"Content-Type": PROBLEM_CONTENT_TYPE, "Cache-Control": "no-store"}
    if status == 503:
        headers["Retry-After"] = str(NO_DECISION_RETRY_S)
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return HttpAnswer(status, headers, json.dumps(problem).encode())
