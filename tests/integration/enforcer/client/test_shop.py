"""The FastAPI example on a real enforcer: what its users see."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from http_sfv.list import List

from enforcer.client import AsyncClient, NotPermitted
from examples.shop import create_app
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, run_enforcer

PATIENT_S = 30.0
ACCESS = """
version: 1
callers:
  - name: shop
    tokens: [{token}]
    roles: [check, report]
"""
POLICIES = """
version: 1
subjects: [user, ip]
expected_enforcers: 1
policies:
  - name: all
    match: { action: "*" }
    limits:
      - { name: per_user, per: [user, action], capacity: 100, refill: 1/1s }
    without_redis: local
"""
TOKEN = "shop-of-the-test"


@pytest.fixture(scope="module")
def enforcer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnforcerProcess]:
    """One that knows the shop alone, and decides from its own memory, for lack of Redis."""
    folder: Path = tmp_path_factory.mktemp("shop")
    access = folder / "access.yaml"
    access.write_text(ACCESS.format(token=hashlib.sha256(TOKEN.encode()).hexdigest()))
    with run_enforcer(f"redis://{NOWHERE}", NOWHERE, folder, "--access", str(access), policies=POLICIES) as one:
        yield one


async def test_requests_are_told_their_limits_and_refused_beyond_them(enforcer: EnforcerProcess) -> None:
    user = f"user-{uuid.uuid4()}"
    client = AsyncClient(enforcer.address, without_enforcer="raise", timeout_s=PATIENT_S, token=TOKEN)
    app = create_app(client)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 4711))
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        item = await http.get("/items/tea", headers={"x-user": user})
        assert (item.status_code, item.json(), item.headers["x-ratelimit-limit"]) == (200, {"name": "tea"}, "100")
        answers = [await http.get("/report", headers={"x-user": user}) for _ in range(12)]
        assert {answer.status_code for answer in answers} == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        level = List()
        level.parse(refused.headers["ratelimit"].encode())
        assert (level[0].value, level[0].params["r"] < 10, level[0].params["t"] >= 1) == ("per_user", True, True)
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["violated-policies"] == ["per_user"]
    assert enforcer.read_metric("ratchet_outcome_reports_total") >= 2  # closing reports what was observed


async def test_a_client_that_the_enforcer_does_not_know_never_fails_open(enforcer: EnforcerProcess) -> None:
    async with AsyncClient(enforcer.address, without_enforcer="allow", timeout_s=PATIENT_S, token="wrong") as client:
        with pytest.raises(NotPermitted, match="unauthenticated: "):
            await client.check("alice", "login")
        app = create_app(client)
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
            assert (await http.get("/items/tea")).status_code == 503
