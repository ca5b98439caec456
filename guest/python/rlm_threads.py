"""Thread pools for a guest without threads: work runs when it is submitted, in order.

A `map` of `llm_query` or `rlm_query` over one iterable, the commonest use in model-written code,
becomes one batch, so that the host answers its items in parallel.
"""

import _queue
import _thread
import concurrent.futures
import queue
import threading
import time
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


class Lock:
    """A lock where there is nobody else to release it: waiting for one that is taken is an error at once."""

    __slots__ = ("__weakref__", "_taken")

    def __init__(self):
        self._taken = False

    def acquire(self, blocking=True, timeout=-1):
        if not blocking and timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        if timeout < 0 and timeout != -1:
            raise ValueError("timeout value must be a non-negative number")
        if not self._taken:
            self._taken = True
            return True
        if not blocking:
            return False
        if timeout == -1:
            raise RuntimeError("deadlock: there is no other thread that could release this lock")
        time.sleep(timeout)
        return False

    def release(self):
        if not self._taken:
            raise RuntimeError("release unlocked lock")
        self._taken = False

    def locked(self):
        return self._taken

    def __enter__(self):
        return self.acquire()

    def __exit__(self, kind, error, trace):
        self.release()

    def _at_fork_reinit(self):
        self._taken = False

    def __reduce__(self):
        raise TypeError(f"cannot pickle {type(self).__qualname__!r} object")

    def __repr__(self):
        return f"<{'locked' if self._taken else 'unlocked'} {type(self).__qualname__} at {id(self):#x}>"


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
    # CPython's own lock ends the guest where it would have to wait. An RLock never waits: one thread.
    _thread.allocate_lock = _thread.allocate = _thread.lock = _thread.LockType = Lock
    threading.Lock = threading._allocate_lock = Lock
    queue.SimpleQueue = _queue.SimpleQueue = queue._PySimpleQueue
