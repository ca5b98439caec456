"""A worker that is gone once it has sealed an image and before its host reads of it: one typed error."""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm.errors import WorkerLost
from rlm_wasm.host.connection import Connection
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.system.memfd import ALL_SEALS
from tests.support.backends import backends
from tests.support.pool_facts import pool
from tests.support.sandbox_facts import boundary_limits, cell_limits, session_limits

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest")]

_F_GET_SEALS = 1034
# Only who waits for ever exceeds it.
STUCK_SECONDS = 60
# Workers that are killed in turn: one of them before it has told of its image.
TRIES = 20


@pytest.fixture(params=backends())
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Each on every event loop."""
    return request.param


def until_now(what: Callable[[], bool]) -> None:
    """Keep the event loop until something is so: meanwhile nothing is read."""
    until = time.monotonic() + STUCK_SECONDS
    while not what():
        assert time.monotonic() < until


def sealed(connection: Connection) -> bool:
    return any(
        fcntl.fcntl(file.fd, _F_GET_SEALS) == ALL_SEALS for file in connection._lent._under_way.values()
    )


@pytest.mark.threat("T-144")
async def test_a_worker_that_is_gone_once_it_has_sealed_an_image_is_lost_like_any_other() -> None:
    async with pool("shared", workers_max=1, heartbeat_ms=30) as made:
        lost = None
        # A worker that has told of its image before the signal reached it is one that died too late.
        for _ in range(TRIES):
            lost = lost or await killed_once_sealed(made)
        assert lost is not None
        assert "its socket failed" in str(lost)
        # The pool watches and serves as before.
        fresh = await made.session(session_limits(), boundary_limits())
        assert (await fresh.run(Cell("1 + 1", cell_limits()))).outcome == "completed"


async def killed_once_sealed(made: WorkerPool) -> WorkerLost | None:
    """How a snapshot ended whose worker was killed as its image was sealed; None if it was made before."""
    lost: list[WorkerLost] = []
    session = await made.session(session_limits(), boundary_limits())
    await session.load("context", "y" * 1_000_000)  # an image of nothing is empty, sealed or not
    (connection,) = made.connections

    async def image() -> None:
        try:
            await session.snapshot()
        except WorkerLost as error:
            lost.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(image)
        while not connection.busy:
            await anyio.lowlevel.checkpoint()
        until_now(lambda: sealed(connection))
        signal.pidfd_send_signal(connection.child.pidfd, signal.SIGKILL)
        until_now(connection.child.ended)
        connection.ping()  # as at the next beat: the first that hears of it is whoever writes
    return lost[0] if lost else None
