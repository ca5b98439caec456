"""A model that answers from a file: the same messages always get the same text, without a key.

``script:FILE.toml`` holds replies that are tried in order; the first that fits answers.
``script:FILE.py`` is the operator's own Python, run with the operator's own rights; a guest can
never name one, because models are asked by names from the policy only.
"""

from __future__ import annotations

import inspect
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from rlm_wasm.errors import ProviderError, UsageError
from rlm_wasm.limits import QueryLimits, ceilings
from rlm_wasm.providers.base import Completion, ProviderFailure, Query
from rlm_wasm.providers.script_file import Reply, TooLong, read_replies
from rlm_wasm.scheduler.messages import FinishReason, Message
from rlm_wasm.scheduler.pricing import utf8_bytes

_SHOWN_CHARS_MAX: Final = 80
# The most that a policy can allow.
_RESPONSE_BYTES_MAX: Final = ceilings(QueryLimits)["response_bytes_max"]
# A longer text is searched on another thread: the event loop has other runs.
_SEARCHED_AT_ONCE_CHARS: Final = 4_096
# So many replies are tried before the others have their turn.
_REPLIES_AT_ONCE: Final = 64
_THREADS_MAX: Final = 2


class ScriptProvider:
    """Answers from a list of replies. A query that no reply fits is a failure that quotes it."""

    def __init__(self, replies: tuple[Reply, ...], origin: str, response_bytes_max: int) -> None:
        self._replies: Final = replies
        self._origin: Final = origin
        self._response_bytes_max: Final = response_bytes_max
        self._threads = anyio.CapacityLimiter(_THREADS_MAX)

    async def complete(self, query: Query) -> Completion:
        """Answer with the first reply that fits."""
        role, turn, prompt = role_of(query.messages), turn_of(query.messages), _last_user(query.messages)
        with anyio.move_on_after(query.timeout_ms / 1000) as scope:
            for number, reply in enumerate(self._replies, 1):
                try:
                    text = await self._answer(reply, role, turn, prompt)
                except TooLong:
                    raise _too_long(self._origin, self._response_bytes_max) from None
                if text is not None:
                    _check_length(text, self._origin, self._response_bytes_max)
                    return _completion(query, text, reply.input_tokens, reply.output_tokens, reply.finish)
                if number % _REPLIES_AT_ONCE == 0:
                    await anyio.lowlevel.checkpoint()
        if scope.cancelled_caught:
            raise _failure(f"the script {self._origin} did not answer within {query.timeout_ms} ms")
        raise _failure(
            f"the script {self._origin} has no reply for turn {turn} of a {role} model, "
            f"last message {prompt[:_SHOWN_CHARS_MAX]!a}"
        )

    async def _answer(self, reply: Reply, role: str, turn: int, prompt: str) -> str | None:
        answer = partial(reply.answer, role, turn, prompt, chars_max=self._response_bytes_max)
        if reply.pattern is None or len(prompt) <= _SEARCHED_AT_ONCE_CHARS:
            return answer()
        # Left behind where nobody waits any more: the search ends, in linear time.
        return await anyio.to_thread.run_sync(answer, abandon_on_cancel=True, limiter=self._threads)

    async def aclose(self) -> None:
        """Do nothing: there is nothing open."""


class FunctionProvider:
    """Answers with ``reply(messages, model)`` of a Python file, plain or ``async``."""

    def __init__(self, reply: Callable[..., Any], origin: str, response_bytes_max: int) -> None:
        self._reply: Final = reply
        self._origin: Final = origin
        self._response_bytes_max: Final = response_bytes_max

    async def complete(self, query: Query) -> Completion:
        """Call the function; what it raises becomes a ProviderFailure. The deadline needs ``async``."""
        messages = [{"role": message.role, "content": message.content} for message in query.messages]
        text: object = None
        with anyio.move_on_after(query.timeout_ms / 1000) as scope:
            try:
                text = self._reply(messages, query.model)
                if inspect.isawaitable(text):
                    text = await text
            # Whatever the operator's function raises is its answer to this query, not our bug.
            except Exception as exc:
                raise _failure(f"the script {self._origin} raised {type(exc).__name__}: {exc}") from exc
        if scope.cancelled_caught:
            raise _failure(f"the script {self._origin} did not answer within {query.timeout_ms} ms")
        if not isinstance(text, str):
            raise _failure(f"the script {self._origin} returned {type(text).__name__}, not str")
        _check_length(text, self._origin, self._response_bytes_max)
        return _completion(query, text, None, None, FinishReason.STOP)

    async def aclose(self) -> None:
        """Do nothing: there is nothing open."""


def open_script(
    path: Path, *, response_bytes_max: int = _RESPONSE_BYTES_MAX
) -> ScriptProvider | FunctionProvider:
    """Load the script at `path`; raise UsageError that names the file and what is wrong with it.

    An answer of more than `response_bytes_max` is a failure of the model, as one from an endpoint is.
    """
    if path.suffix == ".py":
        return FunctionProvider(_load_function(path), str(path), response_bytes_max)
    if path.suffix == ".toml":
        return ScriptProvider(read_replies(path), str(path), response_bytes_max)
    raise UsageError(f"a model script must be a .toml or .py file, not {str(path)!a}")


def role_of(messages: tuple[Message, ...]) -> str:
    """Return ``root`` if there is a system message, which only the RLM loop writes, else ``sub``."""
    return "root" if any(message.role == "system" for message in messages) else "sub"


def turn_of(messages: tuple[Message, ...]) -> int:
    """Return which reply is asked for, from 1: one more than the model has already given."""
    return 1 + sum(message.role == "assistant" for message in messages)


def _last_user(messages: tuple[Message, ...]) -> str:
    """Return everything said to the model since it last spoke: an observation, and the turn's own line."""
    since: list[str] = []
    for message in reversed(messages):
        if message.role == "assistant":
            break
        if message.role == "user":
            since.append(message.content)
    return "\n\n".join(reversed(since))


def _completion(
    query: Query, text: str, input_tokens: int | None, output_tokens: int | None, finish: FinishReason
) -> Completion:
    if input_tokens is None:
        input_tokens = sum(_estimate(message.content) for message in query.messages)
    output_tokens = _estimate(text) if output_tokens is None else output_tokens
    # What a script gives is all that there is, whatever it looks like, unless it says otherwise.
    return Completion(text, input_tokens, output_tokens, finish)


def _estimate(text: str) -> int:
    # Four bytes a token, rounded up: the usual rule of thumb, so that budgets behave as with a model.
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def _check_length(text: str, origin: str, bytes_max: int) -> None:
    if 4 * len(text) > bytes_max and utf8_bytes(text) > bytes_max:
        raise _too_long(origin, bytes_max)


def _too_long(origin: str, bytes_max: int) -> ProviderFailure:
    return _failure(f"the script {origin} answers with more than {bytes_max} bytes")


def _failure(message: str) -> ProviderFailure:
    # Never retryable: a deterministic model gives the same answer again.
    return ProviderFailure(ProviderError(message), retryable=False, sent=False)


def _load_function(path: Path) -> Callable[..., Any]:
    if not path.is_file():
        raise UsageError(f"the model script {str(path)!a} is not a file")
    try:
        found = runpy.run_path(str(path)).get("reply")
    except Exception as exc:
        raise UsageError(f"the model script {path} raised {type(exc).__name__}: {exc}") from exc
    if not callable(found):
        raise UsageError(f"the model script {path} defines no function `reply(messages, model)`")
    function: Callable[..., Any] = found
    return function
