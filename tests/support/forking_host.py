"""A host that forks without starting another program: `python -m tests.support.forking_host HOW ISOLATION`.

What it finds goes to stdout, a line each.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable

import anyio

from rlm_wasm import Policy, Runtime, Sandbox
from rlm_wasm.errors import UsageError
from rlm_wasm.host.zygote_launch import prelaunch
from rlm_wasm.system import forks

CHILDREN = 12
SECONDS_MAX = 60


def policy(isolation: str) -> Policy:
    return Policy.builtin("standard").replace(
        sandbox={"isolation": isolation, "require_lockdown": False},
        cell={"fuel_max": 10**12, "wall_ms_max": 600_000},
        budget={"fuel_max": 10**13},
    )


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def files_named(name: str) -> list[str]:
    """Return the descriptors of memory files of this name."""
    return [fd for fd in os.listdir("/proc/self/fd") if name in read_link(fd)]


def read_link(fd: str) -> str:
    """Return what a descriptor is; nothing if it is closed meanwhile."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""


def child(work: Callable[[], None]) -> int:
    """Fork a process that does `work` and ends; return its status, or that it had to be ended."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(SECONDS_MAX)
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:  # noqa: BLE001 - whatever it was, this process ends here
            say(f"{type(error).__name__}: {error}")
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _outlived(isolation: str) -> None:
    """Be killed, while a fork that does nothing lives on."""

    async def main() -> None:
        async with Sandbox(policy(isolation)) as box, await box.session() as session:
            await session.exec("1")
            pid = os.fork()
            if pid == 0:
                signal.pause()
            pool = box._worker
            say(pid, pool.connections[0].child.pid, pool.zygote_clients[0].zygote_pid)
            await session.exec("while True: pass")

    anyio.run(main)


def _prelaunched(isolation: str) -> None:
    """The same with a zygote's process that was not told what it is for."""
    from rlm_wasm.host.zygote_launch import _launched

    prelaunch()
    pid = os.fork()
    if pid == 0:
        signal.pause()
    say(pid, _launched[0][0].pid)
    signal.pause()


def _inherited(isolation: str) -> None:
    """Use in the child what was opened before, then something of its own; then in the parent."""

    async def main() -> None:
        async with Runtime(policy(isolation), route=lambda model: (None, model)) as runtime:  # type: ignore[arg-type, return-value]
            async with Sandbox(policy(isolation)) as box, await box.session() as session:
                await session.exec("x = 6 * 7")
                image = await session.snapshot()

                def work() -> None:
                    say("lent files:", len(files_named("rlm-arena")))
                    for begin in (
                        lambda: session.exec("x"),
                        lambda: session.load("context", "y"),
                        session.snapshot,
                        box.session,
                        image.session,
                        lambda: runtime.ask("?"),
                    ):
                        try:
                            next(iter(begin().__await__()))
                        except UsageError as error:
                            say(error.message)
                    for close in (
                        session.aclose,
                        lambda: session.__aexit__(None, None, None),
                        lambda: box.__aexit__(None, None, None),
                    ):
                        try:
                            close().send(None)
                        except StopIteration:
                            say("nothing to close")
                    say("its own:", Sandbox(policy(isolation)).exec_sync("x = 6 * 7; x").result)

                # As asyncio and trio have it in a child: no loop runs.
                await anyio.to_thread.run_sync(lambda: say("status", child(work)))
                say("the parent's:", (await session.exec("x")).result)
                async with await image.session() as forked:
                    say("the image's:", (await forked.exec("x")).result)

    anyio.run(main)


def _busy(isolation: str) -> None:
    """Fork while threads run, open and close guests without end."""
    box, started = Sandbox(policy(isolation)), threading.Barrier(4)

    def run() -> None:
        box.exec_sync("1")
        started.wait(SECONDS_MAX)
        while True:
            box.exec_sync("sum(range(20_000))")

    for _ in range(3):
        threading.Thread(target=run, daemon=True).start()
    started.wait(SECONDS_MAX)

    def work() -> None:
        assert box.exec_sync("6 * 7").result == "42"

    say([child(work) for _ in range(CHILDREN)])
    os._exit(0)


def _torn(isolation: str) -> None:
    """Fork in the midst of something that does not end in time."""
    forks.HOLD_SECONDS_MAX = 0.01  # type: ignore[misc]
    endless = threading.Lock()
    forks.add_baton(endless)
    endless.acquire()
    box = Sandbox(policy(isolation))
    say(box.exec_sync("6 * 7").result)
    say("status", child(lambda: say(box.exec_sync("6 * 7").result)))
    endless.release()
    say("status", child(lambda: say(box.exec_sync("6 * 7").result)))


def _afterwards(isolation: str) -> None:
    """Fork when everything was closed and nothing collected, with descriptors that took the old numbers."""
    gc.disable()
    Sandbox(policy(isolation)).exec_sync("1")
    opened = [os.open("/dev/zero", os.O_RDONLY) for _ in range(64)]
    say("status", child(lambda: say(len([fd for fd in opened if read_link(str(fd)) == "/dev/zero"]))))


if __name__ == "__main__":
    {
        "outlived": _outlived,
        "prelaunched": _prelaunched,
        "inherited": _inherited,
        "busy": _busy,
        "torn": _torn,
        "afterwards": _afterwards,
    }[sys.argv[1]](sys.argv[2])
