"""Every provider test runs on asyncio and on trio, and closes what it opens."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from rlm_wasm.providers.log_guard import LogGuard
from tests.support.provider_loopback import Loopback, loopback_server


@pytest.fixture(autouse=True)
def closed_providers() -> Iterator[None]:
    """Fail a test that leaves a provider open: its guard would change the log of every later one."""
    yield
    left = [guard for guard in logging.getLogger("httpx").filters if isinstance(guard, LogGuard)]
    for guard in left:
        guard.close()  # one test fails, not all that come after it
    assert not left


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback_server() as loopback:
        yield loopback
