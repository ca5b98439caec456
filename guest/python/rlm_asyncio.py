"""An asyncio event loop without sockets, signals or threads.

Loops nest: `asyncio.run` and `run_until_complete` work where one runs already, as in a cell that awaits.
"""

import asyncio
import asyncio.events
import asyncio.selector_events
import asyncio.tasks
import contextlib
import errno
import functools
import heapq
import time

import rlm_missing
import rlm_pending

# So many turns of a loop without anything new begun, while something always was ready to go on, and what
# waits to be sent is sent. Polling with sleep(0) would wait for ever.
TURNS_IDLE = 64


class _NoFiles:
    """The selector of a world in which only timers, and answers to queries, can become ready."""

    def __init__(self):
        self._turns = self._begun = 0

    def select(self, timeout=None):
        if rlm_pending.any_waiting():
            if rlm_pending.begun != self._begun:
                self._turns, self._begun = 0, rlm_pending.begun
            self._turns += 1
            # Once no task can go on by itself, nothing more will be begun before the first answer.
            if timeout is None or timeout > 0 or self._turns > TURNS_IDLE:
                self._turns = 0
                rlm_pending.send()
                return []
        if timeout is None:
            raise RuntimeError("deadlock: every task waits and no timer is set")
        if timeout > 0:
            time.sleep(timeout)
        return []

    def close(self):
        pass

    def get_map(self):
        return {}


class Loop(asyncio.selector_events.BaseSelectorEventLoop):
    def __init__(self):
        super().__init__(_NoFiles())

    def _make_self_pipe(self):
        self._internal_fds = 0

    def _close_self_pipe(self):
        pass

    def _write_to_self(self):
        pass

    async def _make_subprocess_transport(self, *args, **kwargs):
        raise OSError(errno.ENOTSUP, rlm_missing.NO_PROCESSES)

    def run_in_executor(self, executor, func, *args):
        """There are no threads: the call happens now, or is begun if all it does is to ask."""
        self._check_closed()
        submit = _submit if executor is None else executor.submit
        return asyncio.wrap_future(submit(func, *args), loop=self)

    def run_until_complete(self, future):
        if not self.is_running():
            return super().run_until_complete(future)
        self._check_closed()
        future = asyncio.ensure_future(future, loop=self)
        with _aside():
            asyncio.events._set_running_loop(self)
            while not future.done():
                self._run_once()
        return future.result()

    def _run_once(self):
        # The base class counts what is ready before it runs the first of it, and so cannot nest.
        ready, timers = self._ready, self._scheduled
        while timers and timers[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(timers)._scheduled = False
        timeout = None
        if ready or self._stopping:
            timeout = 0
        elif timers:
            timeout = max(0, timers[0]._when - self.time())
        self._selector.select(timeout)
        now = self.time() + self._clock_resolution
        while timers and timers[0]._when < now:
            handle = heapq.heappop(timers)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            if not ready:
                break
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
        if self._timer_cancelled_count > max(100, len(timers) // 2):
            self._drop_cancelled_timers()

    def _drop_cancelled_timers(self):
        kept = []
        for handle in self._scheduled:
            if handle._cancelled:
                handle._scheduled = False
            else:
                kept.append(handle)
        heapq.heapify(kept)
        self._scheduled[:] = kept
        self._timer_cancelled_count = 0


def _submit(func, *args):
    return rlm_pending.submit(func, args, {})


@contextlib.contextmanager
def _aside():
    """While another loop runs inside of a task, that task and its loop are not the running ones."""
    loop = asyncio.events._get_running_loop()
    task = None if loop is None else asyncio.tasks.current_task(loop)
    if task is not None:
        asyncio.tasks._leave_task(loop, task)
    asyncio.events._set_running_loop(None)
    try:
        yield
    finally:
        asyncio.events._set_running_loop(loop)
        if task is not None:
            asyncio.tasks._enter_task(loop, task)


def _nesting(run):
    @functools.wraps(run)
    def nested(*args, **kwargs):
        if asyncio.events._get_running_loop() is None:
            return run(*args, **kwargs)
        with _aside():
            return run(*args, **kwargs)

    return nested


_POLICY = getattr(asyncio.events, "_BaseDefaultEventLoopPolicy", None) or asyncio.events.BaseDefaultEventLoopPolicy
_set_policy = getattr(asyncio.events, "_set_event_loop_policy", None) or asyncio.events.set_event_loop_policy


class _Policy(_POLICY):
    _loop_factory = Loop

    def get_event_loop(self):
        """As in a notebook: there always is one."""
        if self._local._loop is None or self._local._loop.is_closed():
            self._local._loop = _session_loop()
        return self._local._loop


def install():
    _set_policy(_Policy())
    asyncio.run = asyncio.runners.run = _nesting(asyncio.run)
    asyncio.Runner.run = _nesting(asyncio.Runner.run)


_cell_loop = None


def _session_loop():
    global _cell_loop
    if _cell_loop is None or _cell_loop.is_closed():
        _cell_loop = Loop()
    return _cell_loop


def run_cell_coroutine(coroutine):
    """Run a cell's top-level await on a loop that lives as long as the session."""
    loop = _session_loop()
    asyncio.events.set_event_loop(loop)
    try:
        return loop.run_until_complete(coroutine)
    except BaseException:
        # As asyncio.run does: what still waits is cancelled, so that its `finally` blocks run.
        waiting = asyncio.all_tasks(loop)
        for task in waiting:
            task.cancel()
        if waiting:
            loop.run_until_complete(asyncio.gather(*waiting, return_exceptions=True))
        raise


def forget_cell_loop():
    global _cell_loop
    _cell_loop = None
    asyncio.events.set_event_loop(None)
