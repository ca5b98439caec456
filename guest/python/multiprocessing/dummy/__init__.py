"""multiprocessing's names over threads, which here is the same."""

from threading import current_thread as current_process  # noqa: F401

from multiprocessing import (  # noqa: F401
    Array, Barrier, BoundedSemaphore, Condition, Event, JoinableQueue, Lock, Manager, Pipe, Process, Queue, RLock,
    Semaphore, Value, active_children, freeze_support,
)
from multiprocessing.pool import ThreadPool

dict, list = dict, list


def Pool(processes=None, initializer=None, initargs=()):
    return ThreadPool(processes, initializer, initargs)
