"""The tools of that library, which are functions and values, as tools of ours and variables of the guest."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from rlm_wasm.errors import ToolError, UsageError
from rlm_wasm.integrations.host_functions import TIMEOUT_MS, plain
from rlm_wasm.tools.signature import ToolSignature
from rlm_wasm.tools.tool import Tool, checked_tool_name
from rlm_wasm.tools.validation import SignatureSchema

# The library's own names; ours are refused as any tool's are.
_RESERVED: Final = ("context", "history")
_PARALLEL_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class CustomTools:
    """Functions as tools, values by the names of their variables, and what models are told of these."""

    tools: tuple[Tool[..., Any], ...] = ()
    values: Mapping[str, Any] | None = None
    told: str = ""

    @classmethod
    def of(cls, given: object) -> CustomTools:
        """Return what `custom_tools` gives.

        Raises:
            UsageError: it is no dict, a name cannot be one, or a function does not say what it takes.
        """
        if given is None:
            return cls()
        if not isinstance(given, Mapping):
            raise UsageError(f"custom_tools is a dict of functions by name, not a {type(given).__name__}")
        tools, values, lines = [], {}, []
        for name, entry in given.items():
            if name in _RESERVED:
                raise UsageError(f"{name} is a name of the session's own; call the tool something else")
            is_described = isinstance(entry, Mapping) and "tool" in entry
            value, words = (entry["tool"], entry.get("description")) if is_described else (entry, None)
            if callable(value):
                tools.append(_tool(name, value, words if isinstance(words, str) else None))
                continue
            values[checked_tool_name(name)] = value
            lines.append(f"- {name}: {words or f'a {type(value).__name__}'}")
        told = "\n".join(["These variables are there from the start:", *lines]) if lines else ""
        return cls(tuple(tools), values, told)


def _tool(name: str, function: Callable[..., Any], description: str | None) -> Tool[..., Any]:
    """Return a function as a tool; what it raises is told to the model, as that library does."""
    call = getattr(function, "__call__", None)  # noqa: B004 - of an object that has an async one
    told: Callable[..., Any]
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):

        async def told(*args: Any, **kwargs: Any) -> Any:
            with _telling():
                return plain(await function(*args, **kwargs))

    else:

        def told(*args: Any, **kwargs: Any) -> Any:
            with _telling():
                return plain(function(*args, **kwargs))

    # Before the schema, which says less of what is no name.
    checked_tool_name(name)
    signature = ToolSignature.of(function, name)
    return Tool(
        told,
        name=name,
        description=inspect.getdoc(function) or "" if description is None else description,
        timeout_ms=TIMEOUT_MS,
        parallel_max=_PARALLEL_MAX,
        signature=signature,
        schema=SignatureSchema(function, name, signature),
    )


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except ToolError:
        raise
    except Exception as error:
        raise ToolError(f"{type(error).__name__}: {error}") from error
