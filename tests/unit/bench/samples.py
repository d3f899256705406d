"""Measurements for tests."""

from bench.generator import Latency, Load, LoadReport
from bench.measure import Measurement

LATENCY = Latency(p50_us=1000.0, p99_us=2500.0, p999_us=9000.0, max_us=12_000.0)


def make_report(
    *, decisions: int = 1000, elapsed_s: float = 10.0, abuser_ok: tuple[int, ...] = (), degraded: int = 0
) -> LoadReport:
    return LoadReport(
        elapsed_s=elapsed_s,
        calls=decisions,
        decisions=decisions,
        ok=decisions,
        over_limit=0,
        other=0,
        degraded=degraded,
        cached=0,
        errors={14: 2},
        unanswered=1,
        latency=LATENCY,
        windows=(),
        abuser_ok=abuser_ok,
        abuser_asked=0,
    )


def make_measurement(server_cpu_us: float, *, new_keys: int | None = None, new_bytes: int | None = None) -> Measurement:
    return Measurement(
        load=Load(),
        seen=make_report(degraded=3),
        decisions_per_s=100.0,
        server_cpu_us=server_cpu_us,
        redis_cpu_us=None,
        kafka_cpu_us=None,
        load_cpu_us=4.0,
        server_busy=0.5,
        redis_script_calls=None,
        redis_commands=None,
        redis_new_keys=new_keys,
        redis_new_bytes=new_bytes,
        server_rss_start_bytes=10_000_000,
        server_rss_end_bytes=12_000_000,
        over_admitted=None,
    )
