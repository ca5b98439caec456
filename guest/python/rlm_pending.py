"""Queries that were begun and are not sent yet.

Who begins several before the first answer is needed has them answered side by side: all of them are sent, those
of one kind in one batch, when somebody waits for any of them, and at the latest when the cell ends. What is
taken back before that is never sent. There is no thread here: what is sent together saves the time.
"""

import concurrent.futures
import contextvars
import dis
import functools
import inspect
import types

_waiting = []
# Counts up with each one begun: whoever polls can see whether there are still more coming.
begun = 0


class Pending:
    """One query: of which group it is, its prompt, and whom to tell what came of it.

    A group is a function and what it takes before a list of prompts. It returns what each of them came to, a
    str or an exception.
    """

    __slots__ = ("group", "prompt", "tell")

    def __init__(self, group, prompt):
        self.group, self.prompt, self.tell = group, prompt, None


def begin(pending, tell):
    """Have it sent with the next ones; `tell` is called with what it came to, or with None if it never will."""
    global begun
    begun += 1
    pending.tell = tell
    _waiting.append(pending)


def withdraw(pending):
    """Take it back; True if it was not sent yet."""
    for at, other in enumerate(_waiting):
        if other is pending:
            del _waiting[at]
            return True
    return False


def any_waiting():
    return bool(_waiting)


def send():
    """Send everything, a group at a time, until nothing waits. Answers may begin more."""
    while _waiting:
        group = _waiting[0].group
        together = [pending for pending in _waiting if pending.group == group]
        _waiting[:] = [pending for pending in _waiting if pending.group != group]
        outcomes = None
        try:
            outcomes = group[0](*group[1:], [pending.prompt for pending in together])
        finally:
            # Interrupted: nobody may wait for these for ever.
            for pending, outcome in zip(together, outcomes or [None] * len(together)):
                pending.tell(outcome)


def drop():
    """Let go of everything that waits, unsent. Return how many there were."""
    dropped = list(_waiting)
    _waiting.clear()
    for pending in dropped:
        pending.tell(None)
    return len(dropped)


# -- work of an executor ---------------------------------------------------------------------------

# While work runs that was submitted: the frame that called it, and its own code.
_work = None


class QueryFuture(concurrent.futures.Future):
    """The future of a query. Whoever looks how it stands waits for it, and so has it sent."""

    def __init__(self, pending):
        self._unsent = pending
        super().__init__()
        begin(pending, self._told)

    @property
    def _state(self):
        if self._unsent is not None:
            send()
        return self._standing

    @_state.setter
    def _state(self, standing):
        self._standing = standing

    def _told(self, outcome):
        self._unsent = None
        if outcome is None:
            self._never()
        elif isinstance(outcome, BaseException):
            self.set_exception(outcome)
        else:
            self.set_result(outcome)

    def _never(self):
        super().cancel()
        self.set_running_or_notify_cancel()

    def cancel(self):
        if self._unsent is None or not withdraw(self._unsent):
            return super().cancel()
        self._unsent = None
        self._never()
        return True

    def add_done_callback(self, fn):
        if self._unsent is None:
            super().add_done_callback(fn)
        else:
            self._done_callbacks.append(fn)


def submit(function, args, kwargs):
    """Do the work now and return its future. A query that is all of it, or its last act, is only begun."""
    future = concurrent.futures.Future()
    future.set_running_or_notify_cancel()
    try:
        result = _do(function, args, kwargs)
    except (Exception, SystemExit) as error:
        future.set_exception(error)
    else:
        if type(result) is Pending:
            return QueryFuture(result)
        future.set_result(result)
    return future


def _do(function, args, kwargs):
    global _work
    outer, _work = _work, (inspect.currentframe(), _own_code(function, args))
    try:
        return function(*args, **kwargs)
    finally:
        _work = outer


def _own_code(function, args):
    """The code whose result is the work's result, as it is; None if that cannot be said."""
    while True:
        kind = type(function)
        if kind is functools.partial:
            function, args = function.func, (*function.args, *args)
        elif kind is types.MethodType:
            function = function.__func__
        elif kind is types.BuiltinMethodType and type(function.__self__) is contextvars.Context and args:
            if function.__name__ != "run":
                return None
            function, *args = args
        else:
            return function.__code__ if kind is types.FunctionType else None


def is_last_act(frame, code):
    """Whether what the function with this code returns to this frame is the result of submitted work, untouched."""
    if _work is None:
        return False
    doing, own = _work
    if frame is doing:
        return own is code
    return frame.f_back is doing and frame.f_code is own and _returns_next(own, frame.f_lasti)


_RETURN, _CACHE = dis.opmap["RETURN_VALUE"], dis.opmap["CACHE"]
_NO_PLAIN_RESULT = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def _returns_next(code, at):
    """Whether the call at this offset is followed by a return, and by no handler if it raises."""
    if code.co_flags & _NO_PLAIN_RESULT:
        return False
    instructions, after = code.co_code, at + 2
    while instructions[after] == _CACHE:
        after += 2
    if instructions[after] != _RETURN:
        return False
    return not code.co_exceptiontable or not any(
        entry.start <= at < entry.end for entry in dis._parse_exception_table(code)
    )
