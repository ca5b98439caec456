"""Every provider test runs on asyncio and on trio."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.provider_loopback import Loopback, loopback_server


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback_server() as loopback:
        yield loopback
