"""The guest's side of the boundary: one JSON request, one JSON response, failures as exceptions."""

import json

import _rlm

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_quote = json.encoder.encode_basestring
_scan = json.decoder.JSONDecoder().scan_once


class QueryError(Exception):
    """A request to the host was refused or failed."""


class LimitExceeded(QueryError, ValueError):
    """The request is larger than the policy allows. The message names the limit and both numbers."""


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


_DIMENSIONS = (
    "calls", "requests", "input_tokens", "output_tokens", "cost_microdollars", "iterations", "fuel", "children",
    "observation_bytes",
)
_AMOUNT_MAX = 10**16

_ERRORS = {
    c.__name__: c
    for c in (
        LimitExceeded, BudgetExceeded, DepthExceeded, QueryTimeout, QueryCancelled, ProviderError, ChildFailed,
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
    if "partial" in told:
        error.partial = told["partial"]
    return error


def _results(items, return_exceptions):
    results = [i["text"] if i["status"] == "completed" else _failure(i) for i in items]
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
    raise TypeError(f"{what} is a str, not {_kind(value)}{other}")


def _kind(value):
    return "None" if value is None else f"a {type(value).__name__}"


def _texts(prompts):
    if prompts is None or issubclass(type(prompts), (str, bytes, bytearray, dict)):
        raise TypeError(f"prompts is a list of str, not {_kind(prompts)}")
    return [_text(prompt, f"prompts[{at}]") for at, prompt in enumerate(prompts)]


def llm_query(prompt, model=None):
    """Ask a language model; return its answer as a str, or raise a QueryError."""
    if type(prompt) is not str:
        prompt = _text(prompt, "prompt", "; llm_query_batched takes a list of prompts")
    if model is None:
        response = _exchange('{"type":"llm_query","prompt":' + _quote(prompt) + "}")
    else:
        response = _ask({"type": "llm_query", "prompt": prompt, "model": _text(model, "model")})
    if response["status"] != "completed":
        raise _failure(response)
    return response["text"]


def llm_query_batched(prompts, model=None, return_exceptions=False):
    """Ask many questions at once; answers come back in the order of the prompts.

    The first failure is raised, with `.results` holding every answer (or exception) in order; with
    `return_exceptions=True` that list is returned instead.
    """
    prompts = _texts(prompts)
    if not prompts:
        return []
    request = {"type": "llm_query_batch", "prompts": prompts}
    if model is not None:
        request["model"] = _text(model, "model")
    response = _ask(request)
    if response["status"] != "completed":
        raise _failure(response)
    return _results(response["items"], return_exceptions)


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
    answer as a str, or raises a QueryError: a ChildFailed if it ended without one.
    """
    request = _child_request("rlm_query", model, budget)
    request["prompt"] = _text(prompt, "prompt", "; rlm_query_batched takes a list of prompts")
    response = _ask(request)
    if response["status"] != "completed":
        raise _failure(response)
    return response["text"]


def rlm_query_batched(prompts, model=None, return_exceptions=False, budget=None):
    """Have child runs answer many prompts in parallel; answers come back in the order of the prompts.

    Failures are told as by `llm_query_batched`. `budget` caps each child by itself.
    """
    request = _child_request("rlm_query_batch", model, budget)
    request["prompts"] = _texts(prompts)
    if not request["prompts"]:
        return []
    response = _ask(request)
    if response["status"] != "completed":
        raise _failure(response)
    return _results(response["items"], return_exceptions)


def budget():
    """What is left: a dict of dimension to {"limit", "spent", "reserved", "available"}.

    Beside the dimensions of the budget it has "depth" (levels of child runs), "run_ms" (time until
    this run, or this child, must end) and "cell_requests" and "cell_children" (of this cell).
    """
    response = _ask({"type": "budget"})
    if response["status"] != "completed":
        raise _failure(response)
    return response["budget"]


def finish(answer):
    """Tell the host the final answer. Raises a LimitExceeded if it is too long to be told."""
    response = _ask({"type": "finish", "answer": str(answer)})
    if response["status"] != "completed":
        refusal = _failure(response)
        # Where nobody takes an answer, a cell that gives one has ended all the same.
        if type(refusal) is LimitExceeded:
            raise refusal
