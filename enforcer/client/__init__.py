"""The client library: ask an enforcer for a decision before doing the work, and tell it how the work went.

``Client`` for threads, ``AsyncClient`` for asyncio; :mod:`enforcer.client.asgi` (middleware), :mod:`enforcer.client.endpoint`
(a decorator for FastAPI and Starlette) and :mod:`enforcer.client.interceptor` (gRPC servers) are built on them. Light to
import: grpcio and protobuf, and nothing of what the service needs.
"""

from enforcer.client.aio import AsyncClient
from enforcer.client.decision import Ban, Decision, LimitStatus, Warned
from enforcer.client.errors import NoDecision, NotPermitted
from enforcer.client.sync import Client
from enforcer.limits.check import Check, InvalidCheck

__all__ = [
    "AsyncClient",
    "Ban",
    "Check",
    "Client",
    "Decision",
    "InvalidCheck",
    "LimitStatus",
    "NoDecision",
    "NotPermitted",
    "Warned",
]
