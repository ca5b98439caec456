"""The answerers of a guest's request frames: an async function, or an `Answerer` that needs no task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

import anyio

from rlm_wasm.errors import GuestError, InternalError

# Turns a request frame of the guest into a response frame. A GuestError it raises ends the cell.
Answer = Callable[[bytes], Awaitable[bytes]]
# Takes the response frame, or the error that ends the cell. Called on the event loop, once a frame.
Reply = Callable[[bytes | GuestError], None]
# Takes what a live cell wrote: the stream, 1 or 2, and its bytes. Called by the task that runs the cell.
TakeOutput = Callable[[int, bytes], None]
# Takes how much more fuel the cell may use. Called on the event loop, once each time it is wanted.
Refuel = Callable[[int], None]


class Answerer(ABC):
    """An `Answer` that can also call back.

    A task that sleeps and wakes for each frame costs more than deciding about it. Whoever drives a
    session may use either way; both mean the same.
    """

    @abstractmethod
    def ask(self, frame: bytes, reply: Reply) -> None:
        """Begin to answer, and call `reply` once: before this returns, or later.

        The wait has an end of its own: whoever waits for `reply` sets no deadline.
        """

    def refuel(self, reply: Refuel) -> None:
        """Say how much more fuel a cell gets that was not given all of its fuel; 0: it has to end.

        Called for a cell that `refuels`. `reply` is called once: before this returns, or later.
        """
        reply(0)

    async def __call__(self, frame: bytes) -> bytes:
        """Return the response frame. Raises the GuestError that ends the cell."""
        came = anyio.Event()
        box: list[bytes | GuestError] = []

        def reply(response: bytes | GuestError) -> None:
            box.append(response)
            came.set()

        self.ask(frame, reply)
        await came.wait()
        (response,) = box
        if isinstance(response, GuestError):
            raise response
        if not isinstance(response, bytes):
            raise InternalError(f"a {type(response).__name__} is no response frame")
        return response
