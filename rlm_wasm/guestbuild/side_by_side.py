"""Works through two lists at once, one in a thread beside the caller's; the first that fails stops both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def side_by_side(
    ahead: Sequence[T],
    beside: Sequence[T],
    needs: Mapping[T, Sequence[T]],
    do: Callable[[T], object],
    stop: Callable[[], None],
) -> None:
    """Call `do` with each of `ahead`, and in a second thread with each of `beside`.

    Each waits until what it needs is done; of its own list that comes before it. `stop` ends what `do` is at
    in the other thread. This returns or raises only when that thread is over.

    Raises:
        Exception: what `do` raised first, in either thread. KeyboardInterrupt: it came to this one.
    """
    waiting, changed, failed = {*ahead, *beside}, threading.Condition(), list[BaseException]()

    def fail(error: BaseException) -> None:
        with changed:
            failed.append(error)
            changed.notify_all()
        stop()

    def wait_until_done(these: Collection[T]) -> bool:
        with changed:
            changed.wait_for(lambda: failed or waiting.isdisjoint(these))
            return not failed

    def work(through: Sequence[T]) -> None:
        for each in through:
            if not wait_until_done(needs[each]):
                return
            do(each)
            with changed:
                waiting.discard(each)
                changed.notify_all()

    def work_beside() -> None:
        try:
            work(beside)
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread of the caller
            fail(error)

    thread = threading.Thread(target=work_beside, name="build beside")
    thread.start()
    try:
        work(ahead)
        # Not by `join`, which an interrupt may have to wait for.
        wait_until_done(beside)
    except BaseException as error:
        fail(error)
        if not isinstance(error, Exception):
            raise
    finally:
        thread.join()
    if failed:
        raise failed[0]
