"""The guest's side of the boundary: one JSON request, one JSON response, failures as exceptions."""

import json
import sys
import types
from asyncio.events import _get_running_loop

import _rlm
import rlm_awaits
import rlm_pending

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_quote = json.encoder.encode_basestring
_scan = json.decoder.JSONDecoder().scan_once


class QueryError(Exception):
    """A request to the host was refused or failed."""


class LimitExceeded(QueryError, ValueError):
    """The request is larger than the policy allows. The message names the limit and both numbers.

    `.key` is the limit's name in the policy, `.limit` what it allows.
    """

    key = limit = None


class BudgetExceeded(QueryError):
    """A budget of this run does not cover the request."""


class DepthExceeded(QueryError):
    """The request would go deeper than the policy allows."""


class QueryTimeout(QueryError):
    """No answer came in time."""


class QueryCancelled(QueryError):
    """The run ended before an answer came."""


class ProviderError(QueryError):
    """The model provider failed."""


class ChildFailed(QueryError):
    """A child run ended without an answer. `.partial` is the best it had: a str, or None."""

    partial = None


class ToolError(QueryError):
    """A tool failed, or there is none of that name. The message is the tool's."""


class ToolArgumentError(ToolError, ValueError):
    """The arguments are not what the tool takes: nothing was called."""


class ToolTimeout(ToolError):
    """The tool did not come back in time."""


_DIMENSIONS = (
    "calls", "requests", "input_tokens", "output_tokens", "cost_microdollars", "iterations", "fuel", "children",
    "observation_bytes",
)
_AMOUNT_MAX = 10**16

_ERRORS = {
    c.__name__: c
    for c in (
        LimitExceeded, BudgetExceeded, DepthExceeded, QueryTimeout, QueryCancelled, ProviderError, ChildFailed,
        ToolError, ToolArgumentError, ToolTimeout,
    )
}


class Finished(BaseException):
    """Ends the cell after a finish; not an Exception, so that `except Exception` lets it through."""


def _ask(request):
    return _exchange(_dumps(request))


def _exchange(frame):
    # Lone surrogates are legal in a str and not in UTF-8: they become question marks here.
    # The host's JSON has no white space around it, so the scanner alone reads it.
    return _scan(_rlm.call(frame.encode("utf-8", "replace")).decode(), 0)[0]


def _failure(item):
    told = item["error"]
    error = _ERRORS.get(told["type"], QueryError)(told["message"])
    for name in ("partial", "key", "limit"):
        if name in told:
            setattr(error, name, told[name])
    return error


def _outcome(item):
    if item["status"] != "completed":
        return _failure(item)
    return CutAnswer(item["text"]) if "cut" in item else item["text"]


def _said(response):
    """The answer to a query that stands alone, or an exception."""
    if response["status"] != "completed":
        raise _failure(response)
    if "cut" in response:
        return CutAnswer(response["text"])
    return Answer(response["text"]) if _may_be_awaited or _get_running_loop() is not None else response["text"]


def _results(results, return_exceptions):
    if not return_exceptions:
        for result in results:
            if isinstance(result, QueryError):
                result.results = results
                raise result
    return results


def _text(value, what, other=""):
    """The str itself, without what a subclass makes of it. The host would end the cell for anything else."""
    if type(value) is str:
        return value
    if issubclass(type(value), str):
        return str.__str__(value)
    raise TypeError(f"{what} is a str, not {_kind(value)}{_of_messages(value) or other}")


def _of_messages(value):
    """What to do with what chat interfaces take, a message or a list of them."""
    if type(value) is dict and "content" in value:
        return "; give the message's content"
    if type(value) in (list, tuple) and any(type(each) is dict and "content" in each for each in value):
        return "; join the contents of the messages into one text"
    return ""


def _kind(value):
    return "None" if value is None else f"a {type(value).__name__}"


def _texts(prompts):
    if prompts is None or issubclass(type(prompts), (str, bytes, bytearray, dict)):
        raise TypeError(f"prompts is a list of str, not {_kind(prompts)}{_of_messages(prompts)}")
    return [_text(prompt, f"prompts[{at}]") for at, prompt in enumerate(prompts)]


def llm_query(prompt, model=None):
    """Ask a language model; return its answer as a str, or raise a QueryError.

    In a coroutine, `await llm_query(prompt)` has all that is asked in this way answered side by side.
    """
    if type(prompt) is not str:
        prompt = _text(prompt, "prompt", "; llm_query_batched takes a list of prompts")
    if model is None:
        if rlm_pending.is_last_act(sys._getframe(1), llm_query.__code__):
            return rlm_pending.Pending(_group("llm_query"), prompt)
        response = _exchange('{"type":"llm_query","prompt":' + _quote(prompt) + "}")
    else:
        model = _text(model, "model")
        if rlm_pending.is_last_act(sys._getframe(1), llm_query.__code__):
            return rlm_pending.Pending(_group("llm_query", model), prompt)
        response = _ask({"type": "llm_query", "prompt": prompt, "model": model})
    return _said(response)


def llm_query_batched(prompts, model=None, return_exceptions=False):
    """Ask many questions at once; answers come back in the order of the prompts.

    The first failure is raised, with `.results` holding every answer (or exception) in order; with
    `return_exceptions=True` that list is returned instead.
    """
    prompts = _texts(prompts)
    if not prompts:
        return given([])
    request = {"type": "llm_query_batch", "prompts": prompts}
    if model is not None:
        request["model"] = _text(model, "model")
    response = _ask(request)
    if response["status"] != "completed":
        raise _failure(response)
    return given(_results([_outcome(item) for item in response["items"]], return_exceptions))


def _child_request(kind, model, budget):
    request = {"type": kind}
    if model is not None:
        request["model"] = _text(model, "model")
    if budget is not None:
        if not issubclass(type(budget), dict):
            raise TypeError(f'budget is a dict such as {{"calls": 5}}, not {_kind(budget)}')
        request["budget"] = {
            _dimension(name): _amount(name, most) for name, most in budget.items() if most is not None
        }
    return request


def _dimension(name):
    if type(name) is not str or name not in _DIMENSIONS:
        raise ValueError(f"no dimension of a budget is called {name!r}; there are {', '.join(_DIMENSIONS)}")
    return name


def _amount(name, most):
    if not issubclass(type(most), (int, float)):
        raise TypeError(f"budget[{name!r}] is an int, not {_kind(most)}")
    if most != most:
        raise ValueError(f"budget[{name!r}] is not a number")
    # What is more than any limit, infinity too, caps nothing.
    return int(min(max(0, most), _AMOUNT_MAX))


def rlm_query(prompt, model=None, budget=None):
    """Have a child run answer: it gets a session of its own, where `context` holds the prompt.

    `budget` caps what the child may use of this run's budget, such as {"calls": 5}. Returns its
    answer as a str, or raises a QueryError: a ChildFailed if it ended without one. It can be awaited
    like `llm_query`.
    """
    request = _child_request("rlm_query", model, budget)
    request["prompt"] = _text(prompt, "prompt", "; rlm_query_batched takes a list of prompts")
    if rlm_pending.is_last_act(sys._getframe(1), rlm_query.__code__):
        return rlm_pending.Pending(_group(**request), request["prompt"])
    return _said(_ask(request))


def rlm_query_batched(prompts, model=None, return_exceptions=False, budget=None):
    """Have child runs answer many prompts in parallel; answers come back in the order of the prompts.

    Failures are told as by `llm_query_batched`. `budget` caps each child by itself.
    """
    request = _child_request("rlm_query_batch", model, budget)
    request["prompts"] = _texts(prompts)
    if not request["prompts"]:
        return given([])
    response = _ask(request)
    if response["status"] != "completed":
        raise _failure(response)
    return given(_results([_outcome(item) for item in response["items"]], return_exceptions))


# -- what is awaited, or begun now and needed later ----------------------------------------------

# Whether the cell speaks of asyncio, so that it may await what it got before a loop ran.
_may_be_awaited = False
# How many prompts a batch may have, once the host has said so.
_items_max = None


def begin_cell(source):
    global _may_be_awaited
    speaks_of_it = "asyncio" in source or "await" in source
    if speaks_of_it is not _may_be_awaited:  # a session copies every page that it writes
        _may_be_awaited = speaks_of_it


def _group(type, model=None, budget=None, prompt=None):
    """What queries have in common that can be sent in one batch."""
    return _outcomes, type, model, None if budget is None else tuple(sorted(budget.items()))


def _outcomes(type, model, budget, prompts):
    """What each prompt came to, a str or a QueryError, in as few requests as the host's limits allow."""
    more = {} if model is None else {"model": model}
    if budget is not None:
        more["budget"] = dict(budget)
    return in_parts(
        prompts,
        lambda prompt: _outcome(_ask({"type": type, "prompt": prompt} | more)),
        lambda prompts: _ask({"type": type + "_batch", "prompts": prompts} | more),
        _outcome,
    )


def in_parts(items, one, many, outcome):
    """Ask for all of these, in as few requests as the host's limits allow; return what each came to."""
    global _items_max
    outcomes = []
    parts = _parts(items, _items_max or len(items))
    while parts:
        part = parts.pop()
        if len(part) == 1:
            outcomes.append(one(part[0]))
            continue
        response = many(part)
        if response["status"] == "completed":
            outcomes += map(outcome, response["items"])
            continue
        failure = _failure(response)
        if issubclass(failure.__class__, LimitExceeded):
            # By the code that asks for them these are queries of their own, each as long as it may be.
            if failure.key == "boundary.batch_items_max" and 0 < failure.limit < len(part):
                _items_max = failure.limit
                parts += _parts(part, _items_max)
            else:
                parts += _parts(part, (len(part) + 1) // 2)
        else:
            outcomes += [_failure(response) for _ in part]
    return outcomes


def _parts(prompts, most):
    """So many prompts at most each, the first ones last."""
    return [prompts[at : at + most] for at in range(0, len(prompts), most)][::-1]


async def answered(group, prompts):
    """Wait until all of these were answered, together with whatever else is begun by then."""
    loop = _get_running_loop()
    begun = [(rlm_pending.Pending(group, prompt), loop.create_future()) for prompt in prompts]
    for pending, future in begun:
        rlm_pending.begin(pending, lambda outcome, future=future: _tell(future, outcome))
    try:
        return [await future for _, future in begun]
    finally:
        for pending, _ in begun:
            rlm_pending.withdraw(pending)  # of those that nobody waits for any more


def _tell(future, outcome):
    if not future.done():
        never = outcome is rlm_pending.NEVER
        future.set_result(QueryCancelled("the cell was interrupted") if never else outcome)


def _result(outcome):
    if issubclass(outcome.__class__, QueryError):
        raise outcome
    return outcome


async def _llm_query(prompt, model=None):
    prompt = _text(prompt, "prompt", "; llm_query_batched takes a list of prompts")
    return _result((await answered(_group(**_child_request("llm_query", model, None)), [prompt]))[0])


async def _llm_query_batched(prompts, model=None, return_exceptions=False):
    group = _group(**_child_request("llm_query", model, None))
    return _results(await answered(group, _texts(prompts)), return_exceptions)


async def _rlm_query(prompt, model=None, budget=None):
    prompt = _text(prompt, "prompt", "; rlm_query_batched takes a list of prompts")
    return _result((await answered(_group(**_child_request("rlm_query", model, budget)), [prompt]))[0])


async def _rlm_query_batched(prompts, model=None, return_exceptions=False, budget=None):
    group = _group(**_child_request("rlm_query", model, budget))
    return _results(await answered(group, _texts(prompts)), return_exceptions)


# The function of a session to the coroutine function that its call means where it is awaited.
awaited = {
    llm_query: _llm_query,
    llm_query_batched: _llm_query_batched,
    rlm_query: _rlm_query,
    rlm_query_batched: _rlm_query_batched,
}
for _function, _coroutine in awaited.items():
    _coroutine.__name__ = _coroutine.__qualname__ = _function.__name__


def later(function, /, *args, **kwargs):
    """In place of a call whose result is awaited: a coroutine for one of the functions above."""
    coroutine = awaited.get(function) if type(function) is types.FunctionType else None
    return (coroutine or function)(*args, **kwargs)


later.of = lambda function: lambda *args: later(function, *args)
rlm_awaits.install(later)


async def _llm_query_in_turn(prompt, model=None):
    prompt = _text(prompt, "prompt", "; llm_query_batched takes a list of prompts")
    group = _group(**_child_request("llm_query", model, None))
    return _result(await rlm_pending.give_way(rlm_pending.Pending(group, prompt)))


async def _rlm_query_in_turn(prompt, model=None, budget=None):
    prompt = _text(prompt, "prompt", "; rlm_query_batched takes a list of prompts")
    group = _group(**_child_request("rlm_query", model, budget))
    return _result(await rlm_pending.give_way(rlm_pending.Pending(group, prompt)))


for _function, _coroutine in ((llm_query, _llm_query_in_turn), (rlm_query, _rlm_query_in_turn)):
    _coroutine.__name__ = _coroutine.__qualname__ = _function.__name__
    rlm_pending.queries[_function] = _coroutine


class _Here:
    """Makes an answer that is here already something that can be awaited, or be the work of a task."""

    __slots__ = ()

    def __await__(self):
        return self._plain()
        yield

    def send(self, value):
        raise StopIteration(self._plain())

    def throw(self, error, *more):
        raise error

    def close(self):
        pass


class Answer(_Here, str):
    """A str from a call that was perhaps meant to be awaited. It can be, and is the same str then."""

    __slots__ = ()

    def _plain(self):
        return str.__str__(self)


class CutAnswer(Answer):
    """An answer that ends in the middle, because it reached the most tokens that one may have: a str all the same."""

    __slots__ = ()

    def _plain(self):
        return self


class Answers(_Here, list):
    def _plain(self):
        return list(self)


class _AwaitedDict(_Here, dict):
    def _plain(self):
        return dict(self)


class _AwaitedInt(_Here, int):
    def _plain(self):
        return int.__int__(self)


class _AwaitedFloat(_Here, float):
    def _plain(self):
        return float.__float__(self)


_AWAITABLE = {str: Answer, list: Answers, dict: _AwaitedDict, int: _AwaitedInt, float: _AwaitedFloat}


def given(value):
    """A value that is here already; where it was perhaps meant to be awaited, as one that can be.

    True, False and None have no such form.
    """
    if not (_may_be_awaited or _get_running_loop() is not None):
        return value
    kind = _AWAITABLE.get(type(value))
    return value if kind is None else kind(value)


def budget():
    """What is left: a dict of dimension to {"limit", "spent", "reserved", "available"}.

    Beside the dimensions of the budget it has "depth" (levels of child runs), "run_ms" (time until
    this run, or this child, must end) and "cell_requests" and "cell_children" (of this cell).
    """
    response = _ask({"type": "budget"})
    if response["status"] != "completed":
        raise _failure(response)
    return response["budget"]


def finish(answer, as_json=False):
    """Tell the host the final answer, a text or JSON. Raises a LimitExceeded if it is too long to be told."""
    request = {"type": "finish", "answer": answer}
    if as_json:
        request["json"] = True
    response = _ask(request)
    if response["status"] != "completed":
        refusal = _failure(response)
        # Where nobody takes an answer, a cell that gives one has ended all the same.
        if type(refusal) is LimitExceeded:
            raise refusal
