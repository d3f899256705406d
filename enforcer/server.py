"""The gRPC server on either transport, with health, reflection and drain."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from enforcer.admin.admin import AdminService
from enforcer.calls.access import Access
from enforcer.calls.decider import Decider
from enforcer.calls.guard import Guard
from enforcer.calls.tls import Tls
from enforcer.envoy.quota_keeper import QuotaKeeper
from enforcer.envoy.rlqs import RateLimitQuotaService, add_rate_limit_quota_service
from enforcer.envoy.rls import RateLimitService, add_rate_limit_service
from enforcer.front import KEEPALIVE_MS, LARGEST_METADATA_BYTES, LARGEST_REQUEST_BYTES, MOST_STREAMS, Front
from enforcer.service import EnforcerService
from ratchet.envoy import rlqs_pb2, rls_pb2
from ratchet.v1 import admin_pb2, admin_pb2_grpc, enforcer_pb2, enforcer_pb2_grpc

Transport = Literal["native", "grpcio"]

_SERVICES = (
    enforcer_pb2.DESCRIPTOR.services_by_name["Enforcer"].full_name,
    rls_pb2.DESCRIPTOR.services_by_name["RateLimitService"].full_name,
    rlqs_pb2.DESCRIPTOR.services_by_name["RateLimitQuotaService"].full_name,
)
_GRACE_S = 5.0
MOST_CONNECTIONS = 10_000
"""Of one process on ``grpcio``. On ``native`` its limit on open files is the bound."""
SHORTEST_PING_MS = 1_000
"""gRPC takes clients who ask for signs of life more often than every 5 minutes for attackers, unless told otherwise; the client
library asks every 2 s."""


class PortTaken(Exception):  # noqa: N818 it says what is the case
    """The address cannot be listened on. Choose another, or end what holds it."""

    def __init__(self, address: str) -> None:
        super().__init__(f"cannot listen on {address}: another process holds it, or it is no address of this host")


class Server:
    """Serves one decider.

    ``grpcio`` is the reference server. ``native`` puts the Rust front before it: the hot calls are answered from there, and
    everything else reaches the reference server through a Unix socket. The services are the same.
    """

    def __init__(
        self,
        decider: Decider,
        quotas: QuotaKeeper,
        access: Access,
        admin: AdminService | None,
        *,
        host: str,
        port: int,
        transport: Transport,
        is_shared: bool = False,
        tls: Tls | None = None,
    ) -> None:
        """Bind the address.

        Args:
            decider: Decides.
            quotas: Assigns quotas.
            access: Who may call.
            admin: Answers operators; None: nobody does.
            host: Address to listen on.
            port: 0 takes a free one, found in ``port`` afterwards.
            transport: Which server stands on the port.
            is_shared: Other processes of ours listen on the same port.
            tls: Certificates to serve with, on ``grpcio`` alone; None: callers come in clear.

        Raises:
            PortTaken: It cannot be bound.
        """
        options = [
            ("grpc.max_receive_message_length", LARGEST_REQUEST_BYTES),
            ("grpc.absolute_max_metadata_size", LARGEST_METADATA_BYTES),
            ("grpc.so_reuseport", int(is_shared)),
        ]
        if transport == "grpcio":  # behind the native front, one connection carries the calls of all
            options += [
                ("grpc.max_concurrent_streams", MOST_STREAMS),
                ("grpc.max_allowed_incoming_connections", MOST_CONNECTIONS),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_MS),
            ]
        self._server = grpc.aio.server(options=options, interceptors=[Guard(access)] if access.callers is not None else [])
        self._services: tuple[str, ...] = _SERVICES
        self._health = health.aio.HealthServicer()
        self._quotas = quotas
        enforcer_pb2_grpc.add_EnforcerServicer_to_server(EnforcerService(decider), self._server)
        add_rate_limit_service(RateLimitService(decider), self._server)
        add_rate_limit_quota_service(RateLimitQuotaService(quotas), self._server)
        if admin is not None:
            admin_pb2_grpc.add_EnforcerAdminServicer_to_server(admin, self._server)
            self._services = (*_SERVICES, admin_pb2.DESCRIPTOR.services_by_name["EnforcerAdmin"].full_name)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._front: Front | None = None
        self._folder: Path | None = None
        try:
            if transport == "native":
                self._folder = Path(tempfile.mkdtemp(prefix="ratchet-"))
                socket = str(self._folder / "grpc.sock")
                self._server.add_insecure_port(f"unix:{socket}")
                self._front = Front(decider, access, address, socket, is_shared=is_shared)
                self.port = self._front.port
            else:
                self.port = (
                    self._server.add_insecure_port(address)
                    if tls is None
                    else self._server.add_secure_port(address, tls.credentials)
                )
        except (OSError, RuntimeError) as error:
            self._remove_folder()
            raise PortTaken(address) from error

    async def start(self) -> None:
        """Listen. Serving means: can decide, with Redis or without."""
        await self._server.start()
        if self._front is not None:
            self._front.start()
        for service in ("", *self._services):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, notice_s: float) -> None:
        """Tell balancers, keep answering for ``notice_s`` so that they notice, then finish what is under way."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(notice_s)
        self._quotas.end_streams()
        await self._server.stop(_GRACE_S)
        if self._front is not None:
            await self._front.close()
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
