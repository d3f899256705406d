"""A real Envoy whose rate limit quota filter asks an enforcer, and a client of it."""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from devstack import envoy_proxy
from devstack.ports import LOOPBACK, PortChooser
from tests.integration.enforcer.enforcer_under_test import poll

DOMAIN = "api"
HEADER = "user"
_TYPE = "type.googleapis.com/envoy"


def configure(port: int, admin_port: int, enforcer: str, *, before: str, expired: str | None = None) -> dict[str, Any]:
    """Envoy's configuration: the buckets are the values of the header ``user``.

    Args:
        port: Where requests go.
        admin_port: Where Envoy tells about itself.
        enforcer: ``host:port``.
        before: Blanket rule until the first assignment: ALLOW_ALL or DENY_ALL.
        expired: Blanket rule after an assignment ran out; None leaves it out.
    """
    host, _, enforcer_port = enforcer.rpartition(":")
    settings: dict[str, Any] = {
        "@type": f"{_TYPE}.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaBucketSettings",
        "bucket_id_builder": {
            "bucket_id_builder": {
                "user": {
                    "custom_value": {
                        "name": "user",
                        "typed_config": {
                            "@type": f"{_TYPE}.type.matcher.v3.HttpRequestHeaderMatchInput",
                            "header_name": "user",
                        },
                    }
                }
            }
        },
        "reporting_interval": "5s",
        "no_assignment_behavior": {"fallback_rate_limit": {"blanket_rule": before}},
    }
    if expired is not None:
        settings["expired_assignment_behavior"] = {
            "fallback_rate_limit": {"blanket_rule": expired},
            "expired_assignment_behavior_timeout": "3600s",
        }
    quota = {
        "@type": f"{_TYPE}.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig",
        "rlqs_server": {"envoy_grpc": {"cluster_name": "enforcer"}},
        "domain": DOMAIN,
        "bucket_matchers": {"on_no_match": {"action": {"name": "bucket", "typed_config": settings}}},
    }
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.rate_limit_quota", "typed_config": quota},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            },
        ],
    }
    return {
        "admin": {"address": {"socket_address": {"address": LOOPBACK, "port_value": admin_port}}},
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": LOOPBACK, "port_value": port}},
                    "filter_chains": [
                        {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "enforcer",
                    "connect_timeout": "1s",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "enforcer",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {
                                        "endpoint": {
                                            "address": {"socket_address": {"address": host, "port_value": int(enforcer_port)}}
                                        }
                                    }
                                ]
                            }
                        ],
                    },
                }
            ],
        },
    }


class QuotaEnvoy:
    """One running Envoy."""

    def __init__(self, port: int, admin_port: int) -> None:
        self.connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
        self._admin_port = admin_port

    def get(self, user: str) -> int:
        """Status of one request."""
        self.connection.request("GET", "/", headers={"user": user})
        response = self.connection.getresponse()
        response.read()
        return response.status

    def send(self, user: str, per_s: float, for_s: float) -> Counter[int]:
        """Send requests at a steady rate; how many got which status."""
        counts: Counter[int] = Counter()
        started_s = time.monotonic()
        for number in range(int(per_s * for_s)):
            counts[self.get(user)] += 1
            time.sleep(max(0.0, started_s + (number + 1) / per_s - time.monotonic()))
        return counts

    def wait_for(self, user: str, status: int, within_s: float = 30.0) -> None:
        """Send requests until one is answered so."""
        poll(lambda: self.get(user) == status, f"{status} for {user}", within_s)


@contextmanager
def run_quota_envoy(folder: Path, enforcer: str, *, before: str, expired: str | None = None) -> Iterator[QuotaEnvoy]:
    chooser = PortChooser()
    port, admin_port = chooser.choose(), chooser.choose()
    config = folder / f"quota-envoy-{port}.yaml"
    config.write_text(yaml.safe_dump(configure(port, admin_port, enforcer, before=before, expired=expired)))
    log = (folder / f"quota-envoy-{port}.log").open("w")
    process = subprocess.Popen(
        [
            *(str(envoy_proxy.find_server()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart"),
            *("--component-log-level", "rate_limit_quota:debug"),
        ],
        stderr=log,
    )

    def is_ready() -> bool:
        assert process.poll() is None, Path(log.name).read_text()[-4000:]
        try:
            return asyncio.run(envoy_proxy.answers(admin_port))
        except OSError:
            return False

    try:
        poll(is_ready, "Envoy")
        envoy = QuotaEnvoy(port, admin_port)
        yield envoy
        envoy.connection.close()
    finally:
        process.terminate()
        process.wait()
        log.close()
