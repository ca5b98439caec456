"""`HostFunctions`: a program's functions as its guest calls them, by any names, through one tool of ours.

Other libraries give their guests functions of any name and signature, and tell models what they raise. In the
guest these ask by the one tool, which the policy must allow: what may be called is decided on the host.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pydantic_core import to_jsonable_python

from rlm_wasm.errors import ToolError
from rlm_wasm.tools.tool import Tool

# A function may ask a model; the built-in policies let a guest wait for 310 s.
TIMEOUT_MS: Final = 300_000
_PARALLEL_MAX: Final = 64
_SOURCE: Final = """
def __rlm_functions(told):
    import json
    from builtins import globals, list  # whatever code calls by these names

    told = json.loads(told)
    module = globals()

    def function(name, doc):
        def call(*args, **kwargs):
            return TOOL(name, list(args), kwargs)

        call.__name__ = call.__qualname__ = name
        call.__doc__ = doc
        call.__module__ = "__main__"
        return call

    for name in told["gone"]:
        module.pop(name, None)
    for name, doc in told["functions"].items():
        module[name] = function(name, doc)


__rlm_functions(TOLD)
del __rlm_functions
"""


class HostFunctions:
    """The tool of one session, through which its guest calls `perform(name, args, kwargs)`.

    It is called on a thread of its own, in the context variables of who last called `begin`.
    """

    def __init__(self, tool: str, perform: Callable[[str, list[Any], dict[str, Any]], object]) -> None:
        self.tool: Final[Tool[..., Any]] = Tool(
            self._call, name=tool, timeout_ms=TIMEOUT_MS, parallel_max=_PARALLEL_MAX
        )
        self._perform: Final = perform
        self._context = contextvars.copy_context()
        # What one of them raised that ends a program, and is not for its guest.
        self.interruption: BaseException | None = None

    def begin(self) -> None:
        """Take the context of the caller's for what is called next."""
        self._context = contextvars.copy_context()
        self.interruption = None

    def _call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        try:
            return plain(self._context.copy().run(self._perform, name, args, kwargs))
        except (Exception, asyncio.CancelledError) as error:
            # Its author meant it for the model, as these libraries take what a tool raises. Cancelled was
            # what it waited for, not who waits for it.
            raise ToolError(f"{type(error).__name__}: {error}") from error
        except BaseException as error:
            self.interruption = error
            raise ToolError("the call was interrupted") from error


def functions_cell(tool: str, functions: Mapping[str, str], gone: Iterable[str] = ()) -> str:
    """Return the cell that gives a guest functions, by name with their docstrings, and takes others away."""
    told = json.dumps({"functions": dict(functions), "gone": sorted(gone)}, ensure_ascii=True)
    return filled(_SOURCE, tool, told)


def filled(source: str, tool: str, told: str) -> str:
    """Return the source of a cell with the name of the tool in it, and the JSON text that it is told."""
    return source.replace("TOOL(", f"{tool}(").replace("TOLD", ascii(told))


def docstring(name: str, function: Callable[..., Any]) -> str:
    """Return what `help` shows of a function of the host's: its signature and its own words."""
    try:
        signature = str(inspect.signature(function))
    except (TypeError, ValueError):
        signature = "(…)"
    text = inspect.getdoc(function)
    return f"{name}{signature}" + (f"\n\n{text}" if text else "")


def plain(value: object) -> Any:
    """Return a value as these libraries send it: what is no JSON as its text."""
    try:
        return to_jsonable_python(value, fallback=str)
    except (ValueError, RecursionError):
        return str(value)
