"""A pool of threads where there are none: work is done when it is submitted, in order.

Work that asks is done up to there: the host answers in parallel what was begun (`rlm_pending`). So is work that waits
for other work.
"""

import sys
from concurrent.futures import _base

import rlm_pending
import rlm_thread_waits
import rlm_threads


class BrokenThreadPool(_base.BrokenExecutor):
    pass


class ThreadPoolExecutor(_base.Executor):
    def __init__(self, max_workers=None, thread_name_prefix="", initializer=None, initargs=(), **ignored):
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._max_workers = max_workers
        self._shutdown = False
        self._begun = []
        if initializer is not None:
            initializer(*initargs)

    def submit(self, fn, /, *args, **kwargs):
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        # Whoever wants one worker wants one piece of work after the other.
        in_turn = self._max_workers == 1
        future = rlm_pending.submit(fn, args, kwargs, in_turn=in_turn, kind=rlm_thread_waits.asking)
        if type(future) is rlm_pending.QueryFuture:
            self._begun.append(future)
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        self._shutdown = True
        if cancel_futures:
            for future in self._begun:
                future.cancel()
        elif wait and self._begun:
            ended = rlm_threads.wait_until(lambda: all(future._pending is None for future in self._begun))
            if not ended and not sys.exception():
                raise RuntimeError("deadlock: work of the pool waits, and there is no other that could end that")
        self._begun.clear()

    def __exit__(self, kind, error, trace):
        # A cell that is told to end sends nothing any more.
        self.shutdown(wait=kind is None or issubclass(kind, (Exception, SystemExit)))
        return False
