"""An event loop's way to the worker thread of its own process, and past it where that is shorter."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from rlm_wasm.errors import UsageError
from rlm_wasm.ids import SessionId
from rlm_wasm.worker.commands import Close, Command, Interrupt, Respond
from rlm_wasm.worker.loop import WorkerLoop
from rlm_wasm.worker.postbox import Postbox

# For so long, and a guest's slice, an event loop runs guests before it looks at its other work again.
ROUND_NS_MAX: Final = 1_000_000
# Responses that the thread gets in one round. Where it is in the way for a moment, the others are not for it.
FOR_THREAD_MAX: Final = 8
_SIGINT: Final = int(signal.SIGINT)


def signals_are_harmless() -> bool:
    """Whether no handler of a signal is known to raise on this thread, in the midst of whatever it does.

    Handlers run in the main thread. Python's own for SIGINT raises; trio's does not in a callback; that of
    asyncio's runner, which anyio uses too, does not the first time, but whenever another one comes. One that
    strikes in a guest's call to the host ends the process: nothing may unwind through wasmtime.
    """
    if threading.current_thread() is not threading.main_thread():
        return True
    # Not `signal.getsignal`, which looks for an enum's member first: 50 µs, as long as the rest of a query.
    handler = _signal.getsignal(_SIGINT)
    if handler is signal.default_int_handler:
        return False
    # A runner keeps count of those that came. Not published; where it is not so, none has come.
    runner = getattr(getattr(handler, "func", None), "__self__", None)
    return not getattr(runner, "_interrupt_count", 0)


class LocalLink:
    """Takes an event loop's commands to the worker loop. To be used on the event loop's thread only.

    Most guests ask again a few microseconds after they were answered. Waking the thread for that, and
    being woken by it, takes several times as long, so where it can the event loop runs that turn itself:
    in a callback of its own, and only while `may_run()`. Guests that compute are the thread's. `clock` gives
    nanoseconds.
    """

    def __init__(
        self,
        loop: WorkerLoop,
        postbox: Postbox,
        clock: Callable[[], int],
        may_run: Callable[[], bool] = signals_are_harmless,
    ) -> None:
        self.postbox: Final = postbox
        self._clock: Final = clock
        self._loop = loop
        self._may_run = may_run
        # What guests are to be answered: each waits for one response at most.
        self._responses: OrderedDict[SessionId, Respond] = OrderedDict()
        # Those whose interrupt the thread may not have seen yet.
        self._interrupted: set[SessionId] = set()

    def submit(self, command: Command) -> None:
        """Have a command performed; those of one session in the order in which they were given.

        Raises:
            UsageError: the loop is closed.
        """
        if isinstance(command, Respond):
            if command.session not in self._interrupted and self._may_run():
                self._responses[command.session] = command
                if len(self._responses) == 1:
                    self.postbox.call_soon(self._respond)
                return
            self._interrupted.discard(command.session)
        elif (response := self._responses.pop(command.session, None)) is not None:
            self._loop.submit(response)
        if isinstance(command, Interrupt):
            self._interrupted.add(command.session)
        elif isinstance(command, Close):
            self._interrupted.discard(command.session)
        self._loop.submit(command)

    def _respond(self) -> None:
        """Answer the guests that wait, one after the other, for a while."""
        if not self._responses:
            return
        until_ns, for_thread = self._clock() + ROUND_NS_MAX, 0
        try:
            self.postbox.hold()
            with self._loop.borrowed() as seats:
                while self._responses and for_thread < FOR_THREAD_MAX and self._clock() < until_ns:
                    _, response = self._responses.popitem(last=False)
                    if seats is None or not seats.answer(response):
                        for_thread += 1
                        with contextlib.suppress(UsageError):  # closed meanwhile, and so is the guest
                            self._loop.submit(response)
        finally:
            if self._responses:
                self.postbox.call_soon(self._respond)
            self.postbox.deliver()
