"""A host that says when its first zygote starts, and then gets a SIGINT: ``asyncio|trio|uvloop``.

python -m tests.support.interrupted_host asyncio
"""

from __future__ import annotations

import os
import sys

import anyio

from rlm_wasm.host.pool import WorkerPool
from tests.faults.leftovers import children_of
from tests.support.backends import backend_of
from tests.support.pool_facts import pool_limits, until
from tests.support.sandbox_facts import boundary_limits, session_limits


async def main() -> None:
    """Open a session; tell of the process that is started for it."""
    async with WorkerPool(pool_limits("session")) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(pool.session, session_limits(), boundary_limits())
        await until(lambda: children_of(os.getpid()))
        print(*children_of(os.getpid()), flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    name, options = backend_of(sys.argv[1])
    try:
        anyio.run(main, backend=name, backend_options=options)
    except* KeyboardInterrupt:
        print("interrupted", flush=True)
