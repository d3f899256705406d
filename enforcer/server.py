"""The gRPC server on either transport, with health, reflection and drain."""

from __future__ import annotations

import asyncio
from typing import Literal

import grpc
import pygrpc_native.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from enforcer.decider import Decider
from enforcer.rls import RateLimitService
from enforcer.service import EnforcerService
from ratchet.envoy import rls_pb2, rls_pb2_grpc
from ratchet.v1 import enforcer_pb2, enforcer_pb2_grpc

Transport = Literal["native", "grpcio"]

LARGEST_REQUEST_BYTES = 8 * 1024 * 1024
"""A batch of 1,000 checks at their bounds is refused as too large; one at usual sizes is about 100 KB."""
_SERVICES = (
    enforcer_pb2.DESCRIPTOR.services_by_name["Enforcer"].full_name,
    rls_pb2.DESCRIPTOR.services_by_name["RateLimitService"].full_name,
)
_GRACE_S = 5.0

log = structlog.get_logger(__name__)


class PortTaken(Exception):  # noqa: N818 it says what is the case
    """The address cannot be listened on. Choose another, or end what holds it."""


class Server:
    """Serves one decider. ``native`` is the Rust HTTP/2 server, ``grpcio`` the reference one; the servicers are the same."""

    def __init__(self, decider: Decider, *, host: str, port: int, transport: Transport) -> None:
        options = [("grpc.max_receive_message_length", LARGEST_REQUEST_BYTES), ("grpc.so_reuseport", 0)]
        self._server = pygrpc_native.aio.server(options=options) if transport == "native" else grpc.aio.server(options=options)
        self._health = health.aio.HealthServicer()
        enforcer_pb2_grpc.add_EnforcerServicer_to_server(EnforcerService(decider), self._server)
        rls_pb2_grpc.add_RateLimitServiceServicer_to_server(RateLimitService(decider), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise PortTaken(
                f"cannot listen on {address}: is another process there, or is it not an address of this host?"
            ) from error
        if self.port == 0:
            raise PortTaken(f"cannot listen on {address}: is another process there, or is it not an address of this host?")

    async def start(self) -> None:
        """Listen. Serving means: can decide, with Redis or without."""
        await self._server.start()
        for service in ("", *_SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, notice_s: float) -> None:
        """Tell balancers, keep answering for ``notice_s`` so that they notice, then finish what is under way."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(notice_s)
        await self._server.stop(_GRACE_S)
