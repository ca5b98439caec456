"""`ToolCalls`: calls of a session's code to its tools: hostile text in, results or typed errors out."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Awaitable, Iterable
from functools import partial
from math import inf
from typing import Any, Final

import anyio
import anyio.lowlevel

from rlm_wasm.errors import (
    BudgetExceeded,
    HostExhausted,
    LimitExceeded,
    NoJsonForm,
    QueryError,
    ToolArgumentError,
    ToolError,
    ToolTimeout,
    ValueTooLarge,
)
from rlm_wasm.limits import ToolLimits
from rlm_wasm.scheduler.request import Completed, Denied, Failed, Response
from rlm_wasm.system.loop_calls import in_thread_of_its_own
from rlm_wasm.tools.granted import GrantedTool, GrantedTools
from rlm_wasm.tools.places import Places
from rlm_wasm.tools.validation import check_arguments
from rlm_wasm.values import plain_value

# Where the program is told what a guest is not: an error of its tool's, with the traceback.
LOG: Final = logging.getLogger("rlm_wasm.tools")
_NAMES_SHOWN: Final = 20


class ToolCalls:
    """Performs calls, and counts them for each tool. None of them raises what a tool raised."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    async def call(self, granted: GrantedTools, name: str, arguments: str, bytes_max: int) -> Response:
        """Return what became of a call: the JSON of its result as text, or the error that the guest gets.

        Cancelled, an async tool is cancelled too; the thread of any other goes on, and its result is dropped.
        """
        found = granted.by_name.get(name)
        if found is None:
            return Denied(unknown_tool(name, granted))
        if found.calls_max is not None and self._counts[name] >= found.calls_max:
            return Denied(no_call_left(name, found.calls_max))
        self._counts[name] += 1  # before it is made: others are asked for meanwhile
        response = await call_tool(found, arguments, granted.limits, bytes_max)
        self._counts[name] -= isinstance(response, Denied)
        return response


async def call_tool(
    found: GrantedTool, arguments: str, limits: ToolLimits, bytes_max: int
) -> Completed | Failed | Denied:
    """Call a tool, unless its arguments are refused: then it is Denied, and was not called.

    It raises nothing of the tool's; cancelled, it does what `ToolCalls.call` says.
    """
    name = found.tool.name
    try:
        text = check_arguments(arguments, limits)
        positional, named = found.tool.schema.read(text)
    except (ToolArgumentError, LimitExceeded) as error:
        return Denied(error)
    except Exception:
        LOG.exception("the arguments of the tool %s could not be checked", name)
        return Denied(ToolError(f"the arguments of the tool {name} could not be checked"))
    try:
        made = await _perform(found, positional, named)
    except ToolError as error:
        # Its author's own kinds have no name in a guest.
        return Failed(error if type(error) is ToolTimeout else ToolError(str(error)))
    except HostExhausted as error:
        return Failed(ToolError(error.message))
    except (Exception, SystemExit):
        LOG.exception("the tool %s failed", name)
        return Failed(ToolError(f"the tool {name} failed"))
    return _result(name, made, min(bytes_max, limits.result_bytes_max))


async def _perform(found: GrantedTool, positional: tuple[Any, ...], named: dict[str, Any]) -> object:
    tool = found.tool
    taken: list[Places] = []
    with anyio.move_on_after(found.timeout_ms / 1000) as scope:
        try:
            await _take(found.places, taken)
            if tool.is_async:
                made: object = await tool.function(*positional, **named)
            else:
                # The thread has the places from now on: it may keep them for longer than anybody waits.
                kept, taken = taken, []
                made = await in_thread_of_its_own(tool.function, positional, named, partial(_give, kept))
                if isinstance(made, Awaitable):
                    await _take(found.places, taken)
                    made = await made
            return made
        except anyio.get_cancelled_exc_class() as error:
            if scope.cancel_called or anyio.current_effective_deadline() == -inf:
                raise
            # Nobody here was cancelled, but something that the tool waited for.
            raise RuntimeError("what the tool waited for was cancelled") from error
        finally:
            _give(taken)
    raise ToolTimeout(f"the tool {tool.name} did not come back within {found.timeout_ms} ms")


def _result(name: str, made: object, most: int) -> Completed | Failed:
    try:
        plain = plain_value(made, "the result", most)
        text = json.dumps(
            plain, ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
        )
        sent = text.encode("utf-8", "replace")
        text, size = sent.decode(), len(sent)
    except ValueTooLarge as error:
        size = error.size or most + 1
    except NoJsonForm as error:
        LOG.error("the tool %s gave what has no JSON form: %s", name, error)
        return Failed(ToolError(f"the tool {name} gave something that has no JSON form"))
    except Exception:
        LOG.exception("what the tool %s gave could not be written as JSON", name)
        return Failed(ToolError(f"the tool {name} gave something that has no JSON form"))
    if size > most:
        what = f"the result of the tool {name} is too large"
        return Failed(LimitExceeded(what, key="tools.result_bytes_max", size=size, limit=most))
    return Completed(text, None)


async def _take(places: Iterable[Places], taken: list[Places]) -> None:
    for place in places:
        await place.take()
        taken.append(place)


def _give(places: list[Places]) -> None:
    for place in places:
        place.give()


def unknown_tool(name: str, granted: GrantedTools) -> QueryError:
    """Return the error for a tool that a session does not have; the name is the guest's."""
    names = sorted(granted.by_name)
    there = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
    return ToolError(f"this session has no tool {name!a}" + (f"; it has {there}" if there else ""))


def no_call_left(name: str, most: int) -> BudgetExceeded:
    """Return the error for a call of a tool that has had all its calls."""
    return BudgetExceeded(f"tools.caps.{name}.calls", requested=1, available=0, limit=most)
