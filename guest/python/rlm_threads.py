"""Threads for a guest without threads: what is started runs at once, in order, to its end.

A thread that asks a model runs to there, and goes on once somebody waits for anything (`rlm_pending`), so that
the queries of all that were started are answered side by side. So does one that has to wait for others
(`rlm_thread_waits`): a worker that is started before there is work goes on when somebody waits and there is some.
"""

import _queue
import _thread
import contextvars
import heapq
import itertools
import queue
import threading
import time

import rlm_pending
import rlm_thread_waits

# What ended a thread and was caught by nobody: (the thread's name, the exception).
_uncaught = []
UNCAUGHT_KEPT = 16
# Timers that are not due yet: (due by the monotonic clock, number, timer).
_timers = []
_numbers = itertools.count(1)
_sleep = time.sleep
# How many threads run in each other now: 0 where the cell itself does.
_depth = 0
_THREAD_RUN = threading.Thread.run


class Lock:
    """A lock where there is nobody else to release it: waiting for one that is taken is an error at once.

    Except for a timer, and a thread that waits and can go on, which may: waiting means to let these go on.
    """

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
        end = None if timeout == -1 else time.monotonic() + timeout
        if wait_until(lambda: not self._taken, end):
            self._taken = True
            return True
        if timeout == -1:
            raise RuntimeError("deadlock: there is no other thread that could release this lock")
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


def wait_until(ready, end=None, sleep=True):
    """Let others go on until `ready()`. False where the time `end` came first, or where nobody is left who could go on;
    that is told at once where there is no `end`, or unless `sleep`."""
    while True:
        rlm_pending.send(ready)
        if ready():
            return True
        if not _pass_time(end):
            break
    if end is not None and sleep:
        _sleep(max(0, end - time.monotonic()))
    return ready()


def _pass_time(end=None):
    """Wait for what is due next, a timer or the end of a thread's wait; False if there is none, or none before `end`."""
    over = rlm_pending.next_over()
    if _next_timer(end if over is None or end is not None and end < over else over):
        return True
    if over is None or end is not None and over > end:
        return False
    _sleep(max(0, over - time.monotonic()))
    return True


# -- threads ------------------------------------------------------------------------------------


def _start(thread):
    """`start()` runs the target to its end, or to where it asks; `join()` waits for the rest."""
    _note_start(thread)
    _run(thread)


def _note_start(thread):
    if not thread._initialized:
        raise RuntimeError("thread.__init__() not called")
    if thread._started.is_set():
        raise RuntimeError("threads can only be started once")
    thread._ident = next(_numbers)
    thread._started.set()


def _run(thread):
    rest = None
    try:
        twin = _twin(thread)
        if twin is None:
            _as_current(thread, thread.run)
        else:
            steps = _Steps(thread, twin)
            try:
                rest = rlm_pending.QueryFuture(steps.send(None), steps)
            except StopIteration:
                pass  # it did not have to ask
    except SystemExit:
        pass
    except Exception as error:
        _note_end(thread, error)
    finally:
        thread._rlm_done = rest is None
    if rest is not None:
        rest.add_done_callback(lambda future: _rest_ended(thread, future))


def _twin(thread):
    if type(thread).run is not _THREAD_RUN:
        return rlm_thread_waits.twin_of_call(thread.run, (), {})
    if thread._target is None:
        return None
    return rlm_thread_waits.twin_of_call(thread._target, thread._args, thread._kwargs)


def _as_current(thread, function, *args):
    global _depth
    here = threading.get_ident()
    before = threading.current_thread()
    threading._active[here] = thread
    context = getattr(thread, "_context", None) or contextvars.Context()
    _depth += 1
    try:
        return context.run(function, *args)
    finally:
        _depth -= 1
        threading._active[here] = before


class _Steps:
    """A thread from one query to the next, each step as that thread."""

    def __init__(self, thread, twin):
        self._thread, self._twin = thread, twin

    def send(self, outcome):
        return _as_current(self._thread, self._twin.send, outcome)

    def close(self):
        self._twin.close()


def _rest_ended(thread, future):
    thread._rlm_done = True
    error = None if future.cancelled() else future.exception()
    if error is not None and not isinstance(error, SystemExit):
        _note_end(thread, error)


def _note_end(thread, error):
    hook = threading.excepthook
    if hook is not threading.__excepthook__:
        hook(threading.ExceptHookArgs((type(error), error, error.__traceback__, thread)))
    else:
        note_uncaught(f"thread {thread.name}", error)


def _join(thread, timeout=None):
    if not thread._initialized:
        raise RuntimeError("Thread.__init__() not called")
    if not thread._started.is_set():
        raise RuntimeError("cannot join thread before it is started")
    if thread is threading.current_thread():
        raise RuntimeError("cannot join current thread")
    end = None if timeout is None else time.monotonic() + max(0, timeout)
    if not wait_until(lambda: thread._rlm_done, end, sleep=False) and timeout is None:
        raise RuntimeError(f"deadlock: {thread.name} waits, and there is no other thread that could end that")


def _is_alive(thread):
    if not thread._started.is_set():
        return False
    if not thread._rlm_done:
        rlm_pending.send(lambda: thread._rlm_done)
    return not thread._rlm_done


def _start_new_thread(function, args, kwargs=None):
    """For `_thread` itself; a thread made so has no name and no object."""
    if not callable(function):
        raise TypeError("first arg must be callable")
    number = next(_numbers)
    try:
        function(*args, **(kwargs or {}))
    except SystemExit:
        pass
    except Exception as error:
        note_uncaught(f"thread {number}", error)
    return number


# -- timers -------------------------------------------------------------------------------------


def _set_timer(timer):
    """It goes off while the cell waits for something, or at the cell's end."""
    _note_start(timer)
    heapq.heappush(_timers, (time.monotonic() + max(0, timer.interval), next(_numbers), timer))


def _next_timer(end=None):
    """Wait for the timer that is due next and run it; False if there is none, or none before `end`."""
    while _timers and _timers[0][2].finished.is_set():
        heapq.heappop(_timers)[2]._rlm_done = True
    if not _timers or end is not None and _timers[0][0] > end:
        return False
    due, _, timer = heapq.heappop(_timers)
    _sleep(max(0, due - time.monotonic()))
    # What is left of its own run() is to look whether it was cancelled, and to call.
    timer.interval = 0
    _run(timer)
    return True


def _sleep_and_watch(seconds, /):
    if not (_timers or rlm_pending.any_parked()):
        return _sleep(seconds)
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    end = time.monotonic() + seconds
    # A thread that could not give way here may hold what others would wait for: only timers go off then.
    while _next_timer(end) if _depth else rlm_pending.go_on() or _pass_time(end):
        pass
    _sleep(max(0, end - time.monotonic()))
    while not _depth and rlm_pending.go_on():
        pass


_sleep_and_watch.__name__ = _sleep_and_watch.__qualname__ = "sleep"


# -- what a cell meets at its end -----------------------------------------------------------------


def note_uncaught(where, error):
    """Nobody caught `error`: the cell is told, if it comes to its end without an error of its own."""
    if len(_uncaught) < UNCAUGHT_KEPT:
        _uncaught.append((where, error))


def begin_cell():
    _uncaught.clear()


def settle():
    """Let threads go on as far as they can. Those that sleep, and are no daemons, are waited for; those that wait for
    others are left for the next cell, which may have work for them."""
    rlm_pending.send()
    while rlm_pending.next_over(kept=True) is not None and _pass_time():
        rlm_pending.send()


def end_cell():
    """Let the cell's timers go off, then raise what ended a thread, if anything did."""
    if _timers:
        _let_timers_go_off()
    settle()
    if _uncaught:
        where, error = _uncaught[0]
        others = len(_uncaught) - 1
        _uncaught.clear()
        error.add_note(f"in {where}, where nothing caught it" + (f"; {others} more ended so" if others else ""))
        raise error


def _let_timers_go_off():
    """Those that are set now and are no daemons. A timer that such a timer sets is left for the next cell."""
    last = max((number for _, number, timer in _timers if not timer.daemon), default=0)
    while any(number <= last and not timer.daemon for _, number, timer in _timers):
        _next_timer()


def install():
    thread = threading.Thread
    thread._rlm_done = False
    thread.start, thread.join, thread.is_alive = _start, _join, _is_alive
    threading.Timer.start = _set_timer
    # No plain function, which would become a method where a class keeps it.
    time.sleep = staticmethod(_sleep_and_watch)
    _thread.start_new_thread = _thread.start_new = _start_new_thread
    # CPython's own lock ends the guest where it would have to wait. An RLock never waits: one thread.
    _thread.allocate_lock = _thread.allocate = _thread.lock = _thread.LockType = Lock
    threading.Lock = threading._allocate_lock = Lock
    queue.SimpleQueue = _queue.SimpleQueue = queue._PySimpleQueue
    rlm_thread_waits.install(_sleep)
