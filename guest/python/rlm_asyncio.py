"""An asyncio event loop without sockets, signals or threads."""

import asyncio
import asyncio.events
import asyncio.selector_events
import time


class _NoFiles:
    """The selector of a world in which only timers can become ready."""

    def select(self, timeout=None):
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

    def run_in_executor(self, executor, func, *args):
        """There are no threads: the call happens now."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


_POLICY = getattr(asyncio.events, "_BaseDefaultEventLoopPolicy", None) or asyncio.events.BaseDefaultEventLoopPolicy
_set_policy = getattr(asyncio.events, "_set_event_loop_policy", None) or asyncio.events.set_event_loop_policy


class _Policy(_POLICY):
    _loop_factory = Loop


def install():
    _set_policy(_Policy())


_cell_loop = None


def run_cell_coroutine(coroutine):
    """Run a cell's top-level await on a loop that lives as long as the session."""
    global _cell_loop
    if _cell_loop is None or _cell_loop.is_closed():
        _cell_loop = Loop()
    asyncio.events.set_event_loop(_cell_loop)
    try:
        return _cell_loop.run_until_complete(coroutine)
    except BaseException:
        # As asyncio.run does: what still waits is cancelled, so that its `finally` blocks run.
        waiting = asyncio.all_tasks(_cell_loop)
        for task in waiting:
            task.cancel()
        if waiting:
            _cell_loop.run_until_complete(asyncio.gather(*waiting, return_exceptions=True))
        raise


def forget_cell_loop():
    global _cell_loop
    _cell_loop = None
