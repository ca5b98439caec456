"""When an event loop may run a guest on its own thread: not where the application could raise there."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
import trio

from rlm_wasm.inline.disturbance import Disturbance
from tests.support.worker_facts import SECONDS_MAX


@contextmanager
def handling(number: int, handler: Any) -> Iterator[None]:
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


@contextmanager
def set_by(setter: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(before)


async def possible() -> bool:
    return Disturbance().possible()


def in_a_thread(work: Callable[[], bool]) -> bool:
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(work()))
    thread.start()
    thread.join(SECONDS_MAX)
    return seen[0]


@pytest.mark.threat("T-136")
def test_under_an_event_loops_own_handlers_nothing_disturbs() -> None:
    with handling(signal.SIGINT, signal.default_int_handler):
        assert not asyncio.run(possible())
        assert not trio.run(possible)

        async def receiving() -> bool:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1):
                return await possible()

        assert not anyio.run(receiving)
        assert not anyio.run(receiving, backend="trio")


@pytest.mark.threat("T-136")
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMAX]
)
def test_a_handler_of_the_applications_may_raise_on_the_main_thread_and_nowhere_else(number: int) -> None:
    class Handler:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, number: int, frame: object) -> None:
            raise TimeoutError

    for handler in (signal.default_int_handler, lambda number, frame: sys.exit(3), Handler()):
        with handling(number, handler):
            assert Disturbance().possible()
            assert not in_a_thread(lambda: Disturbance().possible())
    for harmless in (signal.SIG_DFL, signal.SIG_IGN):
        with handling(signal.SIGINT, signal.SIG_IGN), handling(number, harmless):
            assert not Disturbance().possible()


@pytest.mark.threat("T-136")
def test_a_trace_function_little_room_and_blocked_faults_disturb_on_any_thread() -> None:
    def looked() -> list[bool]:
        seen = Disturbance()
        found = [seen.possible()]
        with set_by(sys.settrace, lambda *_: None, sys.gettrace()):
            found.append(seen.possible())
        with set_by(sys.setprofile, lambda *_: None, sys.getprofile()):
            found.append(seen.possible())
        limit = sys.getrecursionlimit()
        with set_by(sys.setrecursionlimit, 200, limit):
            found.append(seen.possible())
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGFPE})
        found.append(seen.possible())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGFPE})
        return [*found, seen.possible()]

    assert in_a_thread(lambda: looked() == [False, True, True, True, True, False])


@pytest.mark.parametrize("runner", ["asyncio", "anyio"])
def test_after_a_first_interrupt_under_asyncio_a_second_could_strike_a_guest(runner: str) -> None:
    """The first one cancels the main task, which may take its time to end, while guests still ask."""
    seen: list[bool] = []

    async def main() -> None:
        seen.append(await possible())
        try:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(SECONDS_MAX)
        finally:
            seen.append(Disturbance().possible())

    with handling(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        asyncio.run(main()) if runner == "asyncio" else anyio.run(main)
    assert seen == [False, True]
