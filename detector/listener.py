"""The HTTP listener for operators: ``/metrics``, ``/healthz`` (the process turns) and ``/readyz`` (it counts denials)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


@asynccontextmanager
async def serve(host: str, port: int, registry: CollectorRegistry, find_trouble: Callable[[], str]) -> AsyncIterator[int]:
    """Listen until the context ends.

    Args:
        host: Address to bind.
        port: 0 for any free one.
        registry: What ``/metrics`` shows.
        find_trouble: Says why the process is not ready; empty when it is.

    Yields:
        The port.

    Raises:
        OSError: The port is taken.
    """

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readiness(_request: web.Request) -> web.Response:
        trouble = find_trouble()
        return web.Response(text=f"{trouble or 'ready'}\n", status=503 if trouble else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", health), web.get("/readyz", readiness)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
