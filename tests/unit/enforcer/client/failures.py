"""Errors of calls, as grpcio raises them."""

from __future__ import annotations

import grpc
import grpc.aio


def make_error(code: grpc.StatusCode, details: str = "as told") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
