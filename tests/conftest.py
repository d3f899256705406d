"""What every test may ask for."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell that runs the tests in the background has them ignore Ctrl-C, and so would all that they start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure: what is slow is seen in benchmarks.
settings.register_profile("ratchet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ratchet")

pytest_plugins = ["tests.services"]


@pytest.fixture(autouse=True, scope="session")
def _spool_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Enforcers that tests start leave nothing for those of a user, or of another run, to adopt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RATCHET_SPOOL", str(tmp_path_factory.mktemp("spool")))
        yield


@pytest.fixture(autouse=True)
def _logs_of_the_test() -> Iterator[None]:
    """A command line that a test runs in this process sets up logs; the next test's go elsewhere."""
    yield
    structlog.reset_defaults()
