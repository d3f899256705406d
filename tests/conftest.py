"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest_plugins = ["tests.services"]


@pytest.fixture(autouse=True, scope="session")
def _spool_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Enforcers that tests start leave nothing for those of a user, or of another run, to adopt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RATCHET_SPOOL", str(tmp_path_factory.mktemp("spool")))
        yield
