"""A client that answers what a test tells it to, and keeps what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from enforcer.client import AsyncClient, Client, Decision

Decide = Callable[[str], Decision]


class FakeClient(AsyncClient):
    """Never connects."""

    def __init__(self, decide: Decide) -> None:
        super().__init__("127.0.0.1:1", without_enforcer="deny")
        self.decide = decide
        self.asked: list[tuple[str, str, int, Mapping[str, str]]] = []
        self.observed: list[tuple[str, bool, bool]] = []

    async def check(self, user_id: str, action: str, cost: int = 1, attributes: Mapping[str, str] | None = None) -> Decision:
        self.asked.append((user_id, action, cost, dict(attributes or {})))
        return self.decide(user_id)

    def observe(self, action: str, latency_s: float, *, is_error: bool = False, is_timeout: bool = False) -> None:
        assert latency_s >= 0
        self.observed.append((action, is_error, is_timeout))


class FakeSyncClient(Client):
    """Never connects."""

    def __init__(self, decide: Decide) -> None:
        super().__init__("127.0.0.1:1", without_enforcer="deny")
        self.decide = decide
        self.asked: list[tuple[str, str, int, Mapping[str, str]]] = []

    def check(self, user_id: str, action: str, cost: int = 1, attributes: Mapping[str, str] | None = None) -> Decision:
        self.asked.append((user_id, action, cost, dict(attributes or {})))
        return self.decide(user_id)


def decide_by_user(user_id: str) -> Decision:
    """``denied``, ``banned`` and so on are users of these fates; everybody else is allowed."""
    from tests.unit.enforcer.client.answers import allowed, banned, denied, limit, read

    if user_id == "denied":
        refused = limit(refused=True, retry_after_ms=1500, reset_after_ms=2500)
        return read(denied(refused, retry_after_ms=1500))
    if user_id == "banned":
        return read(banned())
    if user_id == "open":
        return Decision("allow", "no_decision", failure="unavailable")
    if user_id == "closed":
        return Decision("deny", "no_decision", failure="unavailable")
    return read(allowed(limit(remaining=4, reset_after_ms=1000)))
