"""An HTTP API that asks Ratchet before it does any work: ``python -m examples.backend --enforcer 127.0.0.1:50050``.

``POST /login`` (JSON ``user`` and ``password``), ``GET /search?q=``, ``GET /healthz``. Run with ``--help`` for the options.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from aiohttp import web

from enforcer.client import AsyncClient, InvalidCheck
from enforcer.client.client_ip import LOOPBACK_NETWORKS, find_client_ip
from enforcer.client.exchange import TIMEOUT_S
from enforcer.client.headers import PROBLEM_CONTENT_TYPE
from examples.actors import password_of

LARGEST_BODY_BYTES = 16_384
ANONYMOUS = "anonymous"
"""Whom searches without ``x-user`` are counted for; real backends take the user from their session."""

_ENFORCER = web.AppKey("enforcer", AsyncClient)

FAST_S, SLOW_S = 0.02, 0.4


class Strain:
    """Work that takes 20 ms, and 400 ms while more of it is under way than there is room for."""

    def __init__(self, capacity: int) -> None:
        """Begin idle.

        Args:
            capacity: Requests under way that are no strain; 0: no work is done at all.
        """
        self._capacity = capacity
        self._under_way = 0

    async def work(self) -> None:
        """Take as long as it takes now."""
        if not self._capacity:
            return
        self._under_way += 1
        try:
            await asyncio.sleep(SLOW_S if self._under_way > self._capacity else FAST_S)
        finally:
            self._under_way -= 1


_STRAIN = web.AppKey("strain", Strain)

Work = Callable[[], Awaitable[web.StreamResponse]]


def create_app(enforcer: AsyncClient, capacity: int = 0) -> web.Application:
    """Make the application; it closes ``enforcer`` when it ends.

    A check that the enforcer calls wrong is never served: its client would have found the way around every limit.

    Args:
        enforcer: Asked before any work is done.
        capacity: As ``Strain`` takes it.
    """
    app = web.Application(client_max_size=LARGEST_BODY_BYTES)
    app[_ENFORCER] = enforcer
    app[_STRAIN] = Strain(capacity)
    app.router.add_post("/login", _login)
    app.router.add_get("/search", _search)
    app.router.add_get("/healthz", _health)
    app.on_cleanup.append(_close_enforcer)
    return app


async def _close_enforcer(app: web.Application) -> None:
    await app[_ENFORCER].close()


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _login(request: web.Request) -> web.StreamResponse:
    try:
        credentials = await request.json()
        user, password = credentials["user"], credentials["password"]
    except (ValueError, KeyError, TypeError):
        return _refuse_content('expected JSON: {"user": "...", "password": "..."}')
    if not isinstance(user, str) or not isinstance(password, str) or not _is_text(user):
        return _refuse_content("user and password have to be text, user not empty")

    async def check_password() -> web.StreamResponse:
        if hmac.compare_digest(password.encode(errors="replace"), password_of(user).encode()):
            return web.json_response({"user": user, "token": "example"})
        problem = {"title": "Wrong user or password", "status": 401}
        headers = {"WWW-Authenticate": 'Bearer realm="example"'}
        return web.json_response(problem, status=401, headers=headers, content_type=PROBLEM_CONTENT_TYPE)

    return await _guard(request, user=user, action="login", work=check_password)


async def _search(request: web.Request) -> web.StreamResponse:
    user, query = request.headers.get("x-user") or ANONYMOUS, request.query.get("q", "")
    if not _is_text(user):
        return _refuse_content("x-user has to be UTF-8")

    async def find() -> web.StreamResponse:
        return web.json_response({"query": query, "results": [f"{query} {number}" for number in range(3)]})

    return await _guard(request, user=user, action="search", work=find)


async def _guard(request: web.Request, *, user: str, action: str, work: Work) -> web.StreamResponse:
    """Ask for one decision, then do the work or refuse it."""
    enforcer = request.app[_ENFORCER]
    forwarded_for = request.headers.getall("x-forwarded-for", [])
    ip = find_client_ip(request.remote or "", forwarded_for, trusted_proxies=LOOPBACK_NETWORKS)
    try:
        decision = await enforcer.check(user, action, attributes={"ip": ip})
    except InvalidCheck as error:
        return _refuse_content(str(error))
    if not decision.is_allowed:
        body = json.dumps(decision.problem)
        return web.Response(text=body, status=decision.http_status, headers=decision.headers, content_type=PROBLEM_CONTENT_TYPE)
    started_s = time.monotonic()
    await request.app[_STRAIN].work()
    response = await work()
    enforcer.observe(action, time.monotonic() - started_s)
    response.headers.update(decision.headers)
    return response


def _refuse_content(detail: str) -> web.Response:
    problem = {"title": "Bad Request", "status": 400, "detail": detail}
    return web.json_response(problem, status=400, content_type=PROBLEM_CONTENT_TYPE)


def _is_text(text: str) -> bool:
    """Tell whether protobuf can carry it: not empty, no lone surrogates (which is what bad UTF-8 in a header becomes)."""
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def open_client(address: str, timeout_s: float = TIMEOUT_S) -> AsyncClient:
    """Make the client of this backend, of an enforcer or of Envoy before several.

    While there is no decision requests are served, with the header ``x-ratchet-fail-open``: a limiter in trouble must not take
    its backend down with it.
    """
    return AsyncClient(address, without_enforcer="allow", timeout_s=timeout_s, is_proxied=True)


async def serve(enforcer: str, host: str, port: int, capacity: int = 0) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests under way.

    Raises:
        OSError: The port is taken.
    """
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    runner = web.AppRunner(create_app(open_client(enforcer), capacity), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, shutdown_timeout=5.0).start()
        print(f"backend on http://{host}:{port}, asks {enforcer}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def main(
    enforcer: Annotated[str, typer.Option(envvar="ENFORCER", help="host:port of an enforcer or of Envoy.")] = "127.0.0.1:50050",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    capacity: Annotated[int, typer.Option(min=0, help="Requests under way at 20 ms each; beyond, 400 ms. 0: no work.")] = 0,
) -> None:
    """Run the protected example API until Ctrl-C."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(serve(enforcer, host, port, capacity))
    except OSError as error:
        typer.echo(f"cannot listen on {host}:{port}: {error.strerror}; take another one with --port", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
