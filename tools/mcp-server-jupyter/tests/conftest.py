"""What every test shares."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How fast examples are made and run is the machine's business; what a test's own settings leave open is from here.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
