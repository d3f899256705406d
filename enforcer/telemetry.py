"""Metrics and liveness over HTTP, and structured logs."""

from __future__ import annotations

import logging
import sys

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from enforcer.calls.access import Access
from enforcer.calls.decider import Decider
from enforcer.calls.tls import Tls
from enforcer.envoy.quota_keeper import QuotaKeeper
from enforcer.metrics import build_registry
from enforcer.reload.in_force import InForce


def configure_logs(level: str = "info") -> None:
    """Write one line per event to standard error: JSON, or coloured text on a terminal."""
    is_terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if is_terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")


class Telemetry:
    """``/metrics``, ``/healthz`` (the process runs) and ``/readyz`` (it can decide exactly: Redis answers)."""

    def __init__(
        self, decider: Decider, in_force: InForce, quotas: QuotaKeeper, access: Access, tls: Tls | None = None
    ) -> None:
        self._decider = decider
        self._in_force = in_force
        self._registry: CollectorRegistry = build_registry(decider, in_force, quotas, access, tls)
        app = web.Application()
        app.add_routes(
            [web.get("/metrics", self._metrics), web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)]
        )
        self._runner = web.AppRunner(app, access_log=None)
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one, found in ``port`` afterwards.

        Raises:
            OSError: The address is taken.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry),  # type: ignore[no-untyped-call]
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        is_ready = self._decider.store.is_available
        in_force = self._in_force
        body = {
            "redis": is_ready,
            "kafka": self._decider.emitter.kafka.is_connected,
            "policies": in_force.version,
            "generation": in_force.generation.number,
            "rejected": None if in_force.rejection is None else in_force.rejection.problems,
        }
        return web.json_response(body, status=200 if is_ready else 503)
