"""Where threads wait for each other: their twins (`rlm_twins`) give way there, and go on once there is something.

What is not in the table, and what is called by code that has no twin, waits as the cell itself does: others go on
meanwhile, and where none can, it is told that this is a deadlock.
"""

import builtins
import queue
import threading
import time
import types

import rlm_pending
import rlm_twins

# Of a method that may wait: how a twin does.
_waits = {}
# Of what a `with` is about: whether it can be taken now.
_free = {
    threading.Semaphore: lambda semaphore: semaphore._value > 0,
    threading.BoundedSemaphore: lambda semaphore: semaphore._value > 0,
    threading.Condition: lambda condition: _is_free(condition._lock),
}
_sleeps = []
# What the twins of threads give way at: of those that ask nobody, and of those that do, also in a pool.
_waiting = asking = None


async def _until(ready, timeout=None, kept=False):
    if not ready():
        until = None if timeout is None else time.monotonic() + timeout
        await rlm_pending.give_way(rlm_pending.Wait(ready, until, kept))


def _in_place_of(method):
    def put(function):
        _waits[method] = function
        return function

    return put


@_in_place_of(queue.Queue.get)
async def _get(self, block=True, timeout=None):
    if block and (timeout is None or timeout >= 0):
        await _until(lambda: self._qsize() or self.is_shutdown, timeout)
        block = False
    return self.get(block, timeout)


@_in_place_of(queue._PySimpleQueue.get)
async def _simple_get(self, block=True, timeout=None):
    if block and (timeout is None or timeout >= 0):
        await _until(self.qsize, timeout)
        block = False
    return self.get(block, timeout)


@_in_place_of(queue.Queue.put)
async def _put(self, item, block=True, timeout=None):
    if block and (timeout is None or timeout >= 0):
        await _until(lambda: not 0 < self.maxsize <= self._qsize() or self.is_shutdown, timeout)
        block = False
    return self.put(item, block, timeout)


@_in_place_of(queue.Queue.join)
async def _queue_join(self):
    await _until(lambda: not self.unfinished_tasks)
    self.join()


@_in_place_of(threading.Event.wait)
async def _event_wait(self, timeout=None):
    await _until(self.is_set, timeout)
    return self.is_set()


@_in_place_of(threading.Condition.wait)
async def _condition_wait(self, timeout=None):
    if not self._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    waiter = threading.Lock()
    waiter.acquire()
    self._waiters.append(waiter)
    kept = self._release_save()
    try:
        await _until(lambda: not waiter.locked() and _is_free(self._lock), timeout)
    finally:
        self._acquire_restore(kept)
    if waiter.locked():
        self._waiters.remove(waiter)
        return False
    return True


@_in_place_of(threading.Condition.wait_for)
async def _condition_wait_for(self, predicate, timeout=None):
    end = None if timeout is None else time.monotonic() + timeout
    while not (result := predicate()):
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            break
        await _condition_wait(self, left)
    return result


async def _thread_join(self, timeout=None):
    if self._started.is_set() and self is not threading.current_thread():
        await _until(lambda: self._rlm_done, timeout)
        timeout = 0
    self.join(timeout)


async def _sleep_aside(seconds, /):
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    await _until(lambda: False, seconds, not threading.current_thread().daemon)


def _is_free(lock):
    if type(lock) is threading.Lock:
        return not lock.locked()
    free = _free.get(type(lock))
    return free is None or free(lock)


async def _when_free(lock):
    await _until(lambda: _is_free(lock))


# -- what stands in a twin ---------------------------------------------------------------------------


def twin_of_call(function, args, kwargs):
    """The coroutine of a thread's call, where it may ask or wait; None where it is to be made as it is."""
    if _is_wait(function):
        return _waits[function.__func__](function.__self__, *args, **kwargs)
    kind = asking if rlm_pending.may_ask(function, args, kwargs) else _waiting
    return rlm_pending.twin_of_call(function, args, kwargs, kind)


def _is_wait(function):
    return (
        type(function) is types.MethodType
        and type(function.__func__) is types.FunctionType
        and function.__func__ in _waits
    )


async def _step(function, /, *args, **kwargs):
    """In place of a call in a twin: gives way if it waits or asks."""
    if any(function is sleep for sleep in _sleeps):
        return await _sleep_aside(*args, **kwargs)
    kind = type(function)
    if kind is types.BuiltinFunctionType:
        return function(*args, **kwargs)
    if kind is types.FunctionType and function in rlm_pending.queries:
        return await rlm_pending.queries[function](*args, **kwargs)
    twin = twin_of_call(function, args, kwargs)
    return function(*args, **kwargs) if twin is None else await twin


def install(own_sleep):
    """Once `threading` and `time` are what they are here."""
    global _waiting, asking
    _waits[threading.Thread.join] = _thread_join
    _sleeps.extend((own_sleep, time.sleep))
    names = frozenset(("get", "put", "join", "wait", "wait_for"))
    _waiting = rlm_twins.Kind(dict.fromkeys(_sleeps), names | {"sleep"}, "__rlm_waiting_step__")
    # One that asks sleeps where it is: whose turn to ask comes a little later is asked in the same batch.
    asking = rlm_twins.Kind(rlm_pending.queries, names, "__rlm_asking_step__")
    for kind in (_waiting, asking):
        setattr(builtins, kind.step, _step)
    setattr(builtins, rlm_twins.FREE, _when_free)
