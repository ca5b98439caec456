"""An asyncio event loop without a clock, a file descriptor or a thread: time jumps, a seed decides order.

What asyncio promises stays: callbacks of `call_soon` run in the order they were scheduled, and timers not
before they are due. What it does not promise is drawn: when something from outside (a thread, a socket)
gets its turn among the others, how late a timer is noticed, how long a round of callbacks took.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from math import ceil, isinf
from random import Random
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio._backends._asyncio import CancelScope

T = TypeVar("T")
Callback = Callable[[], None]

START_NS: Final = 1_000_000_000_000
# A world that needs more rounds than this is going round in circles.
ROUNDS_MAX: Final = 500_000
_ROUND_NS_MAX: Final = 40_000
_LATE_NS_MAX: Final = 3_000_000
_THREAD_NS_MAX: Final = 50_000_000


class Stuck(AssertionError):
    """Nothing can ever happen again, or time does not pass any more, and somebody still waits."""


class _Outside:
    """Stands where asyncio has its selector: what comes from outside, and the passing of time."""

    def __init__(self, loop: VirtualLoop, random: Random) -> None:
        self._loop = loop
        self._random = random
        self._heap: list[tuple[int, int, Callback]] = []
        self._count = 0
        self._rounds = 0

    def add(self, at_ns: int, callback: Callback) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at_ns, self._count, callback))

    def select(self, timeout: float | None) -> list[Callback]:
        loop, random = self._loop, self._random
        self._rounds += 1
        if self._rounds > ROUNDS_MAX:
            raise Stuck(f"{ROUNDS_MAX} rounds of the event loop at {loop.now_ns} ns, and no end")
        if timeout != 0:
            self._jump()
        elif loop.slow:
            loop.now_ns += random.randrange(_ROUND_NS_MAX)
        due = []
        while self._heap and self._heap[0][0] <= loop.now_ns:
            due.append(heapq.heappop(self._heap)[2])
        if len(due) > 1:
            random.shuffle(due)
        return due

    def _jump(self) -> None:
        """Nobody has anything to do: go to the moment when somebody has."""
        loop = self._loop
        moments = [loop.next_timer_ns(), self._heap[0][0] if self._heap else None]
        known = [moment for moment in moments if moment is not None]
        if not known:
            raise Stuck(f"nothing can happen any more at {loop.now_ns} ns")
        loop.now_ns = max(loop.now_ns, min(known))
        if loop.slow and self._random.random() < 0.2:
            loop.now_ns += self._random.randrange(_LATE_NS_MAX)  # noticed late, with whatever came since


class VirtualLoop(asyncio.BaseEventLoop):
    """Run a coroutine with `run_until_complete`; `outside(delay_ns, callback)` is what a thread would do.

    `slow`: rounds take time and timers are noticed late. A wait for something that nobody will ever do
    raises Stuck. There is no selector, so that code which opens a socket here fails.
    """

    def __init__(self, random: Random, *, slow: bool = False) -> None:
        super().__init__()
        self.now_ns = START_NS
        self.slow = slow
        self._random = random
        self._selector = _Outside(self, random)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now_ns / 1e9

    def clock(self) -> int:
        """Return the virtual time in nanoseconds."""
        return self.now_ns

    def outside(self, delay_ns: int, callback: Callback) -> None:
        """Let `callback` happen in `delay_ns`, at any place among what happens then."""
        self._selector.add(self.now_ns + delay_ns, callback)

    async def thread(self, function: Callable[..., T], *arguments: object, **_: object) -> T:
        """Stand for `anyio.to_thread.run_sync`: the function runs here, after a while."""
        done = anyio.Event()
        self.outside(self._random.randrange(_THREAD_NS_MAX), done.set)
        with anyio.CancelScope(shield=True):
            await done.wait()
        await anyio.lowlevel.checkpoint_if_cancelled()
        return function(*arguments)

    def next_timer_ns(self) -> int | None:
        """Return when the next timer is due."""
        while self._scheduled and self._scheduled[0]._cancelled:
            # As the base class does; else time would jump to a moment that nobody waits for.
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False
            self._timer_cancelled_count -= 1
        if not self._scheduled or isinf(when := self._scheduled[0].when()):
            return None
        at_ns = ceil(when * 1e9)
        return at_ns if at_ns / 1e9 >= when else at_ns + 1  # whoever looks at the clock then sees it due

    def _process_events(self, due: list[Callback]) -> None:
        for callback in due:
            handle = asyncio.Handle(callback, (), self, None)
            # A thread's `call_soon_threadsafe` may come before or after any callback of this round.
            self._ready.insert(self._random.randint(0, len(self._ready)), handle)

    def _write_to_self(self) -> None:
        """Wake nobody: there is no other thread."""


class _Members(dict[Any, None]):
    """Stands where anyio has a set, whose order is that of its members' addresses: here the seed decides."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    def __iter__(self) -> Iterator[Any]:
        return iter(self._random.sample(list(self.keys()), len(self)))

    def add(self, member: object) -> None:
        self[member] = None

    def discard(self, member: object) -> None:
        self.pop(member, None)

    def remove(self, member: object) -> None:
        del self[member]


@contextmanager
def _cancelled_in_order(random: Random) -> Iterator[None]:
    """Meanwhile, let cancellation reach tasks and scopes in an order that the seed decides."""
    begin: Any = CancelScope.__init__

    def init(scope: Any, *arguments: Any, **named: Any) -> None:
        begin(scope, *arguments, **named)
        scope._tasks, scope._child_scopes = _Members(random), _Members(random)

    CancelScope.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        CancelScope.__init__ = begin  # type: ignore[method-assign]


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]], random: Random, *, slow: bool) -> T:
    """Run `main(loop)` to its end on a loop of its own. Raises Stuck, and what `main` raises."""
    loop = VirtualLoop(random, slow=slow)
    asyncio.set_event_loop(loop)
    problems: list[str] = []
    loop.set_exception_handler(lambda _loop, context: problems.append(_told(context)))
    task = loop.create_task(main(loop))
    real_thread = anyio.to_thread.run_sync
    anyio.to_thread.run_sync = loop.thread  # type: ignore[assignment]
    try:
        with _cancelled_in_order(random):
            result = loop.run_until_complete(task)
            loop.run_until_complete(loop.shutdown_asyncgens())
        if problems:
            raise AssertionError("told to the event loop: " + "; ".join(problems))
        left = asyncio.all_tasks(loop)
        if left:
            raise AssertionError(f"tasks left behind: {sorted(map(repr, left))}")
        return result
    finally:
        anyio.to_thread.run_sync = real_thread
        for pending in asyncio.all_tasks(loop):
            pending._log_destroy_pending = False  # type: ignore[attr-defined]
        asyncio.set_event_loop(None)
        loop.close()


def _told(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"
