"""Pools: work is done when it is given, in order; queries are begun, and sent together."""

import rlm_pending

__all__ = ["AsyncResult", "MapResult", "Pool", "ThreadPool"]


class AsyncResult:
    """What comes of work: a value, or a list of them."""

    def __init__(self, work, callback=None, error_callback=None):
        self._work = work
        if callback is not None or error_callback is not None:
            told = callback if self.successful() else error_callback
            if told is not None:
                told(self._value if self._error is None else self._error)

    def _collect(self):
        if self._work is not None:
            self._value = self._error = None
            work, self._work = self._work, None
            try:
                self._value = work()
            except (Exception, SystemExit) as error:
                self._error = error

    def ready(self):
        return True

    def successful(self):
        self._collect()
        return self._error is None

    def wait(self, timeout=None):
        self._collect()

    def get(self, timeout=None):
        self._collect()
        if self._error is not None:
            raise self._error
        return self._value


ApplyResult = MapResult = AsyncResult


class _Results:
    """The iterator of `imap`, which also has `next(timeout)`."""

    def __init__(self, futures):
        self._futures = iter(futures)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._futures).result()

    def next(self, timeout=None):
        return self.__next__()


class Pool:
    def __init__(self, processes=None, initializer=None, initargs=(), maxtasksperchild=None, context=None):
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._open = True
        self._processes = processes
        if initializer is not None:
            initializer(*initargs)

    def _submit(self, func, args, kwargs):
        # Whoever wants one worker wants one piece of work after the other.
        return rlm_pending.submit(func, args, kwargs, in_turn=self._processes == 1)

    def _begin(self, func, arguments):
        if not self._open:
            raise ValueError("Pool not running")
        return [self._submit(func, each, {}) for each in arguments]

    def apply(self, func, args=(), kwds={}):
        return self.apply_async(func, args, kwds).get()

    def apply_async(self, func, args=(), kwds={}, callback=None, error_callback=None):
        if not self._open:
            raise ValueError("Pool not running")
        return AsyncResult(self._submit(func, tuple(args), dict(kwds)).result, callback, error_callback)

    def map(self, func, iterable, chunksize=None):
        return self.map_async(func, iterable, chunksize).get()

    def map_async(self, func, iterable, chunksize=None, callback=None, error_callback=None):
        return self.starmap_async(func, zip(iterable), chunksize, callback, error_callback)

    def imap(self, func, iterable, chunksize=1):
        return _Results(self._begin(func, zip(iterable)))

    imap_unordered = imap

    def starmap(self, func, iterable, chunksize=None):
        return self.starmap_async(func, iterable, chunksize).get()

    def starmap_async(self, func, iterable, chunksize=None, callback=None, error_callback=None):
        futures = self._begin(func, map(tuple, iterable))
        return AsyncResult(lambda: [future.result() for future in futures], callback, error_callback)

    def close(self):
        self._open = False

    terminate = close

    def join(self):
        if self._open:
            raise ValueError("Pool is still running")
        rlm_pending.send()

    def __enter__(self):
        if not self._open:
            raise ValueError("Pool not running")
        return self

    def __exit__(self, kind, error, trace):
        self.terminate()


class ThreadPool(Pool):
    def __init__(self, processes=None, initializer=None, initargs=()):
        super().__init__(processes, initializer, initargs)
