"""Queries that were begun and are not sent yet.

Who begins several before the first answer is needed has them answered side by side: all of them are sent, those
of one kind in one batch, when somebody waits for any of them, and at the latest when the cell ends. What is
taken back before that is never sent. There is no thread here: what is sent together saves the time.

Work of a thread that waits for other work is here too: it goes on when somebody waits and what it waits for is there.
"""

import builtins
import collections
import concurrent.futures
import contextvars
import dis
import functools
import inspect
import time
import types

import rlm_twins

# What waits to be sent, in the order in which it was begun; and what was answered, and is to be told.
_waiting = []
_answered = collections.deque()
# What waits for other work, in the order in which it began to.
_parked = []
# What is told in place of an outcome, which may be None, where there will be none.
NEVER = object()
# Counts up with each one begun: whoever polls can see whether there are still more coming.
begun = 0


class Pending:
    """One query: of which group it is, its prompt, and whom to tell what came of it.

    A group is a function and what it takes before a list of prompts. It returns what each of them came to, a
    value or an exception.
    """

    __slots__ = ("group", "prompt", "tell")

    def __init__(self, group, prompt):
        self.group, self.prompt, self.tell = group, prompt, None


class Wait:
    """Until `ready()`, or until a time by the monotonic clock; `kept`: a cell does not end before that."""

    __slots__ = ("kept", "ready", "tell", "until")

    def __init__(self, ready, until=None, kept=False):
        self.ready, self.until, self.kept, self.tell = ready, until, kept, None

    def is_over(self):
        if self.until is not None and self.until <= time.monotonic():
            return True
        try:
            return bool(self.ready())
        except Exception:
            return True  # a method of the cell's own: who waits meets it as well


def begin(pending, tell):
    """Have it sent with the next ones; `tell` is called with what it came to, or with NEVER. A Wait is told when it is
    over."""
    global begun
    pending.tell = tell
    if type(pending) is Wait:
        _parked.append(pending)
        return
    begun += 1
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


def any_parked():
    return bool(_parked)


def next_over(kept=False):
    """The time at which the next Wait is over, or None; `kept`: of those that a cell does not end before."""
    return min((wait.until for wait in _parked if wait.until is not None and wait.kept >= kept), default=None)


def go_on():
    """Have the first whose Wait is over go on, if there is one."""
    for at, wait in enumerate(_parked):
        if wait.is_over():
            del _parked[at]
            wait.tell(None)
            return True
    return False


def send(enough=None):
    """Send everything, a group at a time, until nothing waits that can go on, or until `enough()`. Whom an answer is
    told may begin more, or wait for another one: all of them are in one queue."""
    while enough is None or not enough():
        if _answered:
            pending, outcome = _answered.popleft()
            pending.tell(outcome)
            continue
        # Before anything is sent: what goes on may have more to send.
        if _parked and go_on():
            continue
        if not _waiting:
            return
        group = _waiting[0].group
        together = [pending for pending in _waiting if pending.group == group]
        _waiting[:] = [pending for pending in _waiting if pending.group != group]
        try:
            outcomes = group[0](*group[1:], [pending.prompt for pending in together])
        except BaseException:
            # Interrupted: nobody may wait for these for ever.
            for pending in together:
                pending.tell(NEVER)
            raise
        _answered.extend(zip(together, outcomes))


def drop():
    """Let go of everything that waits. Return how many there were that were not sent."""
    dropped = list(_waiting)
    _waiting.clear()
    dropped_late = [pending for pending, _ in _answered]
    _answered.clear()
    for pending in dropped + dropped_late:
        pending.tell(NEVER)
    return len(dropped)


def drop_kept():
    """Let go of what the end of a cell waits for: a cell was interrupted, and the next one would be."""
    for wait in [wait for wait in _parked if wait.kept]:
        _parked.remove(wait)
        wait.tell(NEVER)


# -- work of an executor ---------------------------------------------------------------------------

# While work runs that was submitted: the frame that called it, and its own code.
_work = None


class QueryFuture(concurrent.futures.Future):
    """The future of work that asked. Whoever looks how it stands waits for it, and so has its query sent."""

    def __init__(self, pending, twin=None):
        self._pending = pending
        self._twin = twin
        super().__init__()
        begin(pending, self._told)

    @property
    def _state(self):
        if self._pending is not None:
            send()
        return self._standing

    @_state.setter
    def _state(self, standing):
        self._standing = standing

    def _told(self, outcome):
        pending, self._pending = self._pending, None
        if outcome is NEVER:
            self._never()
        elif self._twin is not None:
            self._go_on(outcome)
        elif isinstance(outcome, BaseException):
            self.set_exception(outcome)
        else:
            self.set_result(outcome)

    def _go_on(self, outcome):
        try:
            self._pending = self._twin.send(outcome)
        except StopIteration as end:
            self.set_result(end.value)
        except (Exception, SystemExit) as error:
            self.set_exception(error)
        except BaseException:
            self._never()  # the cell is interrupted, and this with it
            raise
        else:
            begin(self._pending, self._told)

    def _never(self):
        if self._twin is not None:
            try:
                self._twin.close()
            except Exception:
                pass  # of code that cleans up after itself, and nobody waits for
        super().cancel()
        self.set_running_or_notify_cancel()

    def cancel(self):
        # What began to run cannot be cancelled, as with threads. But of a query alone nothing happened yet.
        if self._pending is None or self._twin is not None or not withdraw(self._pending):
            return False if self._pending is not None else super().cancel()
        self._pending = None
        self._never()
        return True

    def add_done_callback(self, fn):
        if self._pending is None:
            super().add_done_callback(fn)
        else:
            self._done_callbacks.append(fn)


# What asks, and how a twin does it: a function to a coroutine function that yields what is pending.
queries = {}


def submit(function, args, kwargs, *, in_turn=False, kind=None):
    """Do the work now and return its future. Where it asks, it is done up to there, and goes on once answered;
    `in_turn`: other work must not come between. `kind`: what else it gives way at."""
    future = concurrent.futures.Future()
    future.set_running_or_notify_cancel()
    twin = None
    try:
        if not in_turn:
            twin = twin_of_call(function, args, kwargs, kind or _SUBMITTED)
        if twin is None:
            result = _do(function, args, kwargs)
        else:
            try:
                result = twin.send(None)
            except StopIteration as end:
                result = end.value
    except (Exception, SystemExit) as error:
        future.set_exception(error)
    else:
        if type(result) is Pending or type(result) is Wait:
            return QueryFuture(result, twin)
        future.set_result(result)
    return future


def twin_of_call(function, args, kwargs, kind):
    """The coroutine of a call that may ask; None where it is to be made as it is."""
    function, args, kwargs, owner = _unwrapped(function, args, kwargs)
    twin = rlm_twins.twin_of(function, kind, owner)
    return None if twin is None else twin(*args, **kwargs)


def may_ask(function, args, kwargs):
    """Whether a call may come to one of the queries."""
    function, _, _, owner = _unwrapped(function, args, kwargs)
    return rlm_twins.asks(function, _SUBMITTED, owner)


async def step(function, /, *args, **kwargs):
    """In place of a call in a twin: gives way if it asks."""
    asked = queries.get(function) if type(function) is types.FunctionType else None
    if asked is not None:
        return await asked(*args, **kwargs)
    twin = twin_of_call(function, args, kwargs, _SUBMITTED)
    return function(*args, **kwargs) if twin is None else await twin


_SUBMITTED = rlm_twins.Kind(queries, frozenset(), "__rlm_step__")
setattr(builtins, _SUBMITTED.step, step)


@types.coroutine
def give_way(pending):
    return (yield pending)


def _do(function, args, kwargs):
    global _work
    own = _unwrapped(function, args, kwargs)[0]
    own = own.__code__ if type(own) is types.FunctionType else None
    outer, _work = _work, (inspect.currentframe(), own)
    try:
        return function(*args, **kwargs)
    finally:
        _work = outer


def _unwrapped(function, args, kwargs):
    """The call that a call amounts to, as far as its result is that call's, untouched; and the class of the
    object that it is a method of."""
    owner = None
    while True:
        kind = type(function)
        if kind is functools.partial:
            args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
            function = function.func
        elif kind is types.MethodType:
            owner = type(function.__self__)
            if issubclass(owner, type):
                owner = function.__self__
            function, args = function.__func__, (function.__self__, *args)
        elif kind is types.BuiltinMethodType and type(function.__self__) is contextvars.Context and args:
            if function.__name__ != "run":
                return function, args, kwargs, owner
            function, *args = args
        else:
            return function, args, kwargs, owner


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
