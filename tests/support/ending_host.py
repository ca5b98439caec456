"""A host whose interpreter ends while guests run or start: `python ending_host.py ISOLATION HOW`.

Says on stdout, through a buffer that only an orderly end writes out, what is there when the package's own
handlers have run.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading

WORDS = "the application's last words"


def _last() -> None:
    # Registered before anything of the package is imported, so it runs after all that the package registered.
    alive = [thread for thread in threading.enumerate() if thread.name == "rlm-wasm-worker"]
    sys.stdout.write(f"{WORDS}; threads that run guests: {len(alive)}")


if __name__ == "__main__":
    atexit.register(_last)

import anyio  # noqa: E402

from rlm_wasm import Policy, Sandbox  # noqa: E402


def _policy() -> Policy:
    return Policy.builtin("standard").replace(
        sandbox={"isolation": sys.argv[1], "require_lockdown": False},
        # No limit of ours ends what runs when the interpreter does.
        cell={"fuel_max": 10**12, "wall_ms_max": 600_000},
        budget={"fuel_max": 10**13},
    )


async def _busy(box: Sandbox, began: asyncio.Event) -> None:
    """Run a cell that never ends; `began` is set when it is under way."""

    async def answer(frame: bytes) -> bytes:
        began.set()
        return b"nothing that it understands"

    session = await box.session()
    await session.exec(
        "try:\n llm_query('x')\nexcept BaseException: pass\nwhile True: pass", answer_frames=answer
    )


async def _left_open(how: str) -> None:
    """Leave everything as it is: what asyncio's runner cancels is all that is ended."""
    kept = []
    for _ in range(3 if how == "three" else 1):
        box = Sandbox(_policy())
        await box.__aenter__()
        if how == "starting":
            kept.append(asyncio.ensure_future(box.session()))
            await asyncio.sleep(0)
        else:
            began = asyncio.Event()
            kept.append(asyncio.ensure_future(_busy(box, began)))
            await began.wait()
    if how == "error":
        raise ValueError("of the application")
    if how == "_exit":
        os._exit(5)
    sys.exit(3)


async def _in_the_hook() -> None:
    """Exit from within the caller's own code, in the middle of a cell."""

    async def answer(frame: bytes) -> bytes:
        sys.exit(3)

    async with Sandbox(_policy()) as box, await box.session() as session:
        await session.exec("llm_query('x')", answer_frames=answer)


def _on_a_daemon() -> None:
    """An event loop on a thread that nothing ends, while the main thread does."""
    running = threading.Event()

    async def main() -> None:
        box = Sandbox(_policy())
        await box.__aenter__()
        began = asyncio.Event()
        busy = asyncio.ensure_future(_busy(box, began))
        await began.wait()
        running.set()
        await busy

    threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
    if not running.wait(60):
        os._exit(1)
    sys.exit(3)


if __name__ == "__main__":
    if sys.argv[2] == "daemon":
        _on_a_daemon()
    elif sys.argv[2].startswith("hook"):
        anyio.run(_in_the_hook, backend=sys.argv[2].partition(" ")[2])
    else:
        asyncio.run(_left_open(sys.argv[2]))
