"""One enforcer process: what is started, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from config.watching import watch_files
from enforcer.admin.admin import AdminService
from enforcer.admin.audit import Audit
from enforcer.admin.subject_store import SubjectStore
from enforcer.calls.access import Access
from enforcer.calls.decider import Decider
from enforcer.calls.guard import reload_callers
from enforcer.calls.tls import Tls
from enforcer.envoy.quota_keeper import QuotaKeeper
from enforcer.exit_codes import EXIT_FAILED, EXIT_PORT_TAKEN
from enforcer.reload.in_force import InForce
from enforcer.server import PortTaken, Server, Transport
from enforcer.stores.changes import follow_changes
from enforcer.stores.quota_store import QuotaStore
from enforcer.telemetry import Telemetry
from enforcer.workers import watch_parent
from lua.address import open_client

_SETTLE_WITHIN_S = 1.0
"""How long the first answer waits for Redis to say what is in force; without it the file is."""
REDIS_WITHIN_S = 2.0
"""How long what is not a check waits for Redis."""

log = structlog.get_logger("enforcer")


@dataclass(frozen=True, slots=True)
class Address:
    """Where one process listens."""

    host: str
    port: int
    metrics_port: int
    """0 takes a free one."""
    is_shared: bool
    """Other workers listen on the same port."""
    tls: Tls | None = None
    """Certificates to serve with."""
    access_file: Path | None = None
    """Where the access document came from, to be read again when it changes."""


async def serve(
    decider: Decider, in_force: InForce, access: Access, address: Address, transport: Transport, drain_s: float
) -> int:
    """Serve until SIGTERM or Ctrl-C, then drain and send what is left; returns the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if address.is_shared:
        watch_parent(stop)
    quotas = QuotaKeeper(decider, QuotaStore(decider.store.url, decider.emitter.source))
    telemetry = Telemetry(decider, in_force, quotas, access, address.tls)
    subjects = SubjectStore(
        open_client(decider.store.url, socket_timeout=REDIS_WITHIN_S, socket_connect_timeout=REDIS_WITHIN_S)
    )
    admin = AdminService(decider, in_force, subjects, Audit(decider.emitter.kafka))
    try:
        server = Server(
            decider,
            quotas,
            access,
            admin if access.serves_admin(address.host) else None,
            host=address.host,
            port=address.port,
            transport=transport,
            is_shared=address.is_shared,
            tls=address.tls,
        )
        await telemetry.start(address.host, address.metrics_port)
    except PortTaken as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_PORT_TAKEN
    except OSError as error:
        sys.stderr.write(f"cannot listen on {address.host}:{address.metrics_port} for metrics: {error.strerror}\n")
        return EXIT_PORT_TAKEN
    exit_code = 0

    def end_with(task: asyncio.Task[None]) -> None:
        nonlocal exit_code
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("enforcer_failed", exc_info=error)
            exit_code = EXIT_FAILED
            stop.set()

    following = loop.create_task(follow_changes(decider.store.url, decider.refusals, decider.fallback, in_force.wake))
    keeping_up = loop.create_task(in_force.run())
    assigning = loop.create_task(quotas.run())
    watching = [loop.create_task(each) for each in _watch(access, address)]
    for task in (decider.store.start(), decider.emitter.start(), following, keeping_up, assigning, *watching):
        task.add_done_callback(end_with)
    await in_force.settle(_SETTLE_WITHIN_S)
    await server.start()
    log.info(
        "enforcer_ready",
        address=f"{address.host}:{server.port}",
        metrics=f"http://{address.host}:{telemetry.port}/metrics",
        transport=transport,
        policies=in_force.version,
        generation=in_force.generation.number,
        source=decider.emitter.source,
        pid=os.getpid(),
    )
    gc.collect()
    gc.freeze()  # what lives as long as the process need not be looked at again
    gc.set_threshold(50_000, 20, 50)
    await stop.wait()
    log.info("enforcer_drains", seconds=drain_s)
    await server.drain(drain_s)
    for task in (following, keeping_up, assigning, *watching):
        task.cancel()
    await asyncio.gather(keeping_up, return_exceptions=True)  # it takes leave of the others
    await quotas.leave()
    await decider.store.close()
    await decider.emitter.close(timeout_s=5.0)
    await telemetry.close()
    await subjects.close()
    log.info("enforcer_stopped", decisions=sum(decider.counts.values()))
    return exit_code


def _watch(access: Access, address: Address) -> Iterator[Coroutine[Any, Any, None]]:
    """Take over access documents and certificates that are renewed."""
    if address.access_file is not None:
        yield watch_files([address.access_file], partial(reload_callers, access, address.access_file))
    if address.tls is not None:
        yield watch_files(address.tls.files.all, address.tls.reload)
