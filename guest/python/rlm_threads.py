"""Thread pools for a guest without threads: work runs when it is submitted, in order.

A `map` of `llm_query` or `rlm_query` over one iterable, the commonest use in model-written code,
becomes one batch, so that the host answers its items in parallel.
"""

import concurrent.futures
import threading
import types

import rlm_queries

_BATCHED = {
    rlm_queries.llm_query: rlm_queries.llm_query_batched,
    rlm_queries.rlm_query: rlm_queries.rlm_query_batched,
}


class ThreadPoolExecutor(concurrent.futures.Executor):
    def __init__(self, max_workers=None, thread_name_prefix="", initializer=None, initargs=()):
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._closed = False
        if initializer is not None:
            initializer(*initargs)

    def submit(self, fn, /, *args, **kwargs):
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def map(self, fn, *iterables, timeout=None, chunksize=1, buffersize=None):
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        batched = _BATCHED.get(fn) if isinstance(fn, types.FunctionType) and len(iterables) == 1 else None
        if batched is not None:
            return iter(batched(list(iterables[0])))
        return map(fn, *iterables)

    def shutdown(self, wait=True, *, cancel_futures=False):
        self._closed = True


class _InlineThread(threading.Thread):
    """`start()` runs the target to its end; `join()` has nothing left to wait for."""

    def start(self):
        if self._started.is_set():
            raise RuntimeError("threads can only be started once")
        self._started.set()
        try:
            self.run()
        except Exception:
            threading.excepthook(threading.ExceptHookArgs((*__import__("sys").exc_info(), self)))

    def join(self, timeout=None):
        if not self._started.is_set():
            raise RuntimeError("cannot join thread before it is started")

    def is_alive(self):
        return False


def install():
    concurrent.futures.ThreadPoolExecutor = ThreadPoolExecutor
    threading.Thread = _InlineThread
