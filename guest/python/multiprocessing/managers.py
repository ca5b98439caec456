"""Managers: what they would share between processes is simply there."""

import multiprocessing
import queue
import threading
import types


class Namespace(types.SimpleNamespace):
    pass


class BaseManager:
    def __init__(self, *args, **kwargs):
        pass

    @classmethod
    def register(cls, typeid, callable=None, **ignored):
        if callable is not None:
            setattr(cls, typeid, staticmethod(callable))

    def start(self, initializer=None, initargs=()):
        if initializer is not None:
            initializer(*initargs)

    def shutdown(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.shutdown()


class SyncManager(BaseManager):
    dict, list, Namespace = staticmethod(dict), staticmethod(list), staticmethod(Namespace)
    Queue, JoinableQueue = staticmethod(queue.Queue), staticmethod(queue.Queue)
    Event, Barrier = staticmethod(threading.Event), staticmethod(threading.Barrier)
    Condition, Semaphore = staticmethod(threading.Condition), staticmethod(threading.Semaphore)
    BoundedSemaphore, RLock = staticmethod(threading.BoundedSemaphore), staticmethod(threading.RLock)
    Lock, Pool = staticmethod(multiprocessing.Lock), staticmethod(multiprocessing.Pool)
    Value, Array = staticmethod(multiprocessing.Value), staticmethod(multiprocessing.Array)
