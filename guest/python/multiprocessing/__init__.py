"""multiprocessing where there is one process: what it is given runs at once, in order, and is shared.

A child process's changes to what it was given are therefore seen by who started it.
"""

import collections
import itertools
import os
import queue as _queue
import sys
import threading

import rlm_threads
from multiprocessing.connection import Pipe

__all__ = [
    "Array", "AuthenticationError", "Barrier", "BoundedSemaphore", "BufferTooShort", "Condition", "Event",
    "JoinableQueue", "Lock", "Manager", "Pipe", "Pool", "Process", "ProcessError", "Queue", "RLock", "RawArray",
    "RawValue", "Semaphore", "SimpleQueue", "TimeoutError", "Value", "active_children", "allow_connection_pickling",
    "cpu_count", "current_process", "freeze_support", "get_all_start_methods", "get_context", "get_logger",
    "get_start_method", "log_to_stderr", "parent_process", "set_executable", "set_forkserver_preload",
    "set_start_method",
]


class ProcessError(Exception):
    pass


class BufferTooShort(ProcessError):
    pass


class TimeoutError(ProcessError):
    pass


class AuthenticationError(ProcessError):
    pass


# -- processes ----------------------------------------------------------------------------------

_numbers = itertools.count(1)


class BaseProcess:
    """`start()` runs the target to its end, in this process."""

    _before = None

    def __init__(self, group=None, target=None, name=None, args=(), kwargs=None, *, daemon=None):
        assert group is None, "group argument must be None for now"
        self._target, self._args, self._kwargs = target, tuple(args), dict(kwargs or {})
        self._number = next(_numbers)
        self.name = name or f"{type(self).__name__}-{self._number}"
        self.daemon = bool(daemon)
        self.authkey = b""
        self.exitcode = None
        self._started = self._closed = False

    @property
    def pid(self):
        return os.getpid() + self._number if self._started else None

    ident = pid
    sentinel = property(lambda self: self._number)

    def run(self):
        if self._target:
            self._target(*self._args, **self._kwargs)

    def start(self):
        global _current
        if self._started:
            raise AssertionError("cannot start a process twice")
        self._started, before, _current = True, _current, self
        try:
            self.run()
            self.exitcode = 0
        except SystemExit as error:
            self.exitcode = error.code if isinstance(error.code, int) else int(error.code is not None)
        except Exception as error:
            self.exitcode = 1
            rlm_threads.note_uncaught(f"process {self.name}", error)
        finally:
            _current = before

    def join(self, timeout=None):
        assert self._started, "can only join a started process"

    def is_alive(self):
        return self is _current or self is _main

    def terminate(self):
        pass

    kill = interrupt = close = terminate

    def __repr__(self):
        state = "initial" if not self._started else "started" if self.exitcode is None else "stopped"
        return f"<{type(self).__name__} name={self.name!r} {state}>"


class Process(BaseProcess):
    pass


class _MainProcess(BaseProcess):
    def __init__(self):
        super().__init__(name="MainProcess")
        self._number, self._started = 0, True


_main = _current = _MainProcess()


def current_process():
    return _current


def parent_process():
    return None if _current is _main else _main


def active_children():
    return []


def cpu_count():
    return 1


def freeze_support():
    pass


allow_connection_pickling = freeze_support


def set_executable(path):
    pass


set_forkserver_preload = set_executable


# -- contexts: there is one ------------------------------------------------------------------------

_method = "spawn"


def set_start_method(method, force=False):
    global _method
    if method is not None and method not in ("fork", "spawn", "forkserver"):
        raise ValueError(f"cannot find context for {method!r}")
    _method = method or _method


def get_start_method(allow_none=False):
    return _method


def get_all_start_methods():
    return ["spawn", "fork", "forkserver"]


def get_context(method=None):
    set_start_method(method)
    return sys.modules[__name__]


def get_logger():
    import logging

    return logging.getLogger("multiprocessing")


def log_to_stderr(level=None):
    logger = get_logger()
    if level:
        logger.setLevel(level)
    return logger


# -- what is shared --------------------------------------------------------------------------------

Barrier, BoundedSemaphore, Condition, Event = (
    threading.Barrier, threading.BoundedSemaphore, threading.Condition, threading.Event,
)
RLock, Semaphore = threading.RLock, threading.Semaphore


def Lock():
    return threading.Lock()


class _Ends:
    """The ends of a queue of processes, which close one by one."""

    def close(self):
        pass

    def join_thread(self):
        pass

    cancel_join_thread = join_thread


class JoinableQueue(_queue.Queue, _Ends):
    def __init__(self, maxsize=0, *, ctx=None):
        super().__init__(maxsize)


class Queue(JoinableQueue):
    pass


class SimpleQueue(_Ends):
    def __init__(self, *, ctx=None):
        self._items = collections.deque()

    def empty(self):
        return not self._items

    def put(self, item):
        self._items.append(item)

    def get(self):
        if not self._items:
            raise RuntimeError("deadlock: the queue is empty, and there is no other process that could fill it")
        return self._items.popleft()


def Pool(processes=None, initializer=None, initargs=(), maxtasksperchild=None):
    from multiprocessing.pool import Pool

    return Pool(processes, initializer, initargs, maxtasksperchild)


def Manager():
    from multiprocessing.managers import SyncManager

    manager = SyncManager()
    manager.start()
    return manager


def Value(typecode_or_type, *args, lock=True):
    from multiprocessing.sharedctypes import Value

    return Value(typecode_or_type, *args, lock=lock)


def Array(typecode_or_type, size_or_initializer, *, lock=True):
    from multiprocessing.sharedctypes import Array

    return Array(typecode_or_type, size_or_initializer, lock=lock)


def RawValue(typecode_or_type, *args):
    return Value(typecode_or_type, *args, lock=False)


def RawArray(typecode_or_type, size_or_initializer):
    return Array(typecode_or_type, size_or_initializer, lock=False)
