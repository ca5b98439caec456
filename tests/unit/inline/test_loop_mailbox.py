"""Letters from a thread reach the event loop in order, and leave it time for everybody else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
from anyio.lowlevel import EventLoopToken

from rlm_wasm.inline.loop_mailbox import LoopMailbox


class Loop:
    """The callbacks of an event loop, made when the test says so."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.callbacks: deque[Callable[[], None]] = deque()
        self.loop_mailbox = LoopMailbox(cast("EventLoopToken", SimpleNamespace(native_token=self)), clock)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    call_soon_threadsafe = call_soon

    def turn(self) -> None:
        for _ in range(len(self.callbacks)):
            self.callbacks.popleft()()


def test_one_wake_up_brings_all_letters_in_order() -> None:
    loop, got = Loop(lambda: 0), list[object]()
    for number in range(100):
        loop.loop_mailbox.post(got.append, number)
    assert len(loop.callbacks) == 1
    loop.turn()
    assert got == list(range(100))
    assert not loop.callbacks


def test_who_posts_as_fast_as_letters_are_taken_does_not_keep_the_event_loop() -> None:
    """Guests that ask for ever, on the thread, while each question takes the event loop as long as a turn."""
    now_ns = 0

    def clock() -> int:
        nonlocal now_ns
        now_ns += 100_000
        return now_ns

    loop, got = Loop(clock), list[int]()

    def take(number: object) -> None:
        assert isinstance(number, int)
        got.append(number)
        assert len(got) < 1_000, "the event loop has no turn"
        loop.loop_mailbox.post(take, number + 1)

    loop.loop_mailbox.post(take, 0)
    for turns in range(1, 20):
        loop.turn()
        assert len(got) <= 20 * turns
        # Also where letters were held for who takes them out between the turns, as for answers.
        loop.loop_mailbox.hold()
        loop.loop_mailbox.deliver()
        assert len(loop.callbacks) == 1, "the rest comes soon, and is asked for once"
    assert got == list(range(len(got)))
    assert len(got) >= 5


def test_a_letter_that_fails_does_not_keep_those_behind_it() -> None:
    loop, got = Loop(lambda: 0), list[object]()

    def fails(_: object) -> None:
        raise ZeroDivisionError

    loop.loop_mailbox.post(fails, None)
    loop.loop_mailbox.post(got.append, "behind")
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.turn()
    assert got == ["behind"]
