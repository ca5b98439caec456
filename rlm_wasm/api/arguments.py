"""The arguments of public calls: checked where they are given, not when they are first wanted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from rlm_wasm.errors import UsageError
from rlm_wasm.policy.model import Policy

_C = TypeVar("_C", bound=Callable[..., Any])


def is_async(function: object) -> bool:
    """Return whether calling it only makes a coroutine."""
    call = getattr(function, "__call__", None)  # noqa: B004 - of an object that has an async one
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def check_callable(what: str, function: object) -> None:
    """Raise UsageError for what cannot be called."""
    if not callable(function):
        raise UsageError(f"{what} is a function, not a {type(function).__name__}")


def check_plain_function(what: str, function: object) -> None:
    """Raise UsageError for what cannot be called, or is async: nobody would await what it returns."""
    check_callable(what, function)
    if is_async(function):
        raise UsageError(
            f"{what} is called on the event loop's thread and not awaited: it is no async function",
            hint="let it put what it is given into a queue, and read that in a task",
        )


def checked_sinks(sinks: Iterable[_C]) -> list[_C]:
    """Return the sinks of a run. Raises UsageError for one that is no function, or an async one."""
    if not isinstance(sinks, Iterable):
        raise UsageError(f"sinks are several functions, such as a list, not a {type(sinks).__name__}")
    checked = list(sinks)
    for sink in checked:
        check_plain_function("a sink", sink)
    return checked


def check_question(question: object) -> None:
    """Raise UsageError for what asks nothing."""
    if not isinstance(question, str):
        raise UsageError(f"a question is a str, not a {type(question).__name__}")
    if not question.strip():
        raise UsageError("the question is empty")


def check_policy(policy: object) -> None:
    """Raise UsageError for what is no policy."""
    if not isinstance(policy, Policy):
        raise UsageError(
            f"a policy is a Policy, not a {type(policy).__name__}",
            hint="`Policy.builtin(name)` gives one of the built-in ones, `Policy.load(path)` a file's",
        )
