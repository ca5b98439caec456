"""Thread pools for a guest without threads: work runs when it is submitted, in order.

Work that is a query, or ends in one, is only begun: the host answers in parallel what was begun (`rlm_pending`).
"""

import _queue
import _thread
import concurrent.futures
import queue
import threading
import time

import rlm_pending


class ThreadPoolExecutor(concurrent.futures.Executor):
    def __init__(self, max_workers=None, thread_name_prefix="", initializer=None, initargs=()):
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._closed = False
        self._workers = max_workers
        self._begun = []
        if initializer is not None:
            initializer(*initargs)

    def submit(self, fn, /, *args, **kwargs):
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        # Whoever wants one worker wants one piece of work after the other.
        future = rlm_pending.submit(fn, args, kwargs, in_turn=self._workers == 1)
        if type(future) is rlm_pending.QueryFuture:
            self._begun.append(future)
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        self._closed = True
        if cancel_futures:
            for future in self._begun:
                future.cancel()
        elif wait and self._begun:
            rlm_pending.send()
        self._begun.clear()

    def __exit__(self, kind, error, trace):
        # A cell that is told to end sends nothing any more.
        self.shutdown(wait=kind is None or issubclass(kind, (Exception, SystemExit)))
        return False


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
