"""The FastAPI example on a client that answers what it is told to; on a real enforcer it is tested with the client."""

from __future__ import annotations

import httpx
import pytest

from examples.shop import create_app
from tests.unit.enforcer.client.fake_client import FakeClient, decide_by_user


@pytest.fixture
async def client() -> FakeClient:
    return FakeClient(decide_by_user)


async def call(client: FakeClient, path: str, user: str = "alice") -> httpx.Response:
    transport = httpx.ASGITransport(create_app(client), client=("127.0.0.1", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        return await http.get(path, headers={"x-user": user, "x-forwarded-for": "198.51.100.1"})


async def test_a_route_is_limited_by_its_template_for_the_address_that_the_proxy_names(client: FakeClient) -> None:
    response = await call(client, "/items/tea")
    assert (response.status_code, response.headers["x-ratelimit-remaining"]) == (200, "4")
    assert client.asked == [("alice", "GET:/items/{name}", 1, {"ip": "198.51.100.1"})]


async def test_the_report_costs_ten_and_is_asked_for_once(client: FakeClient) -> None:
    assert (await call(client, "/report?days=3")).json() == {"days": 3}
    assert (await call(client, "/report", "denied")).status_code == 429
    assert [(asked[1], asked[2]) for asked in client.asked] == [("report", 10)] * 2


async def test_health_asks_nobody(client: FakeClient) -> None:
    assert (await call(client, "/healthz", "banned")).status_code == 200
    assert client.asked == []
