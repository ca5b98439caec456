"""`Tool` and `tool`: a function of the program's that guests may call, with what bounds its calls."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Iterable
from keyword import iskeyword
from typing import Any, Final, Generic, ParamSpec, TypeAlias, TypeVar, overload

from rlm_wasm.errors import UsageError
from rlm_wasm.limits import DAY_MS
from rlm_wasm.protocol.guest_frames import TOOL_NAME_CHARS_MAX
from rlm_wasm.protocol.session_names import RESERVED
from rlm_wasm.tools.places import Places
from rlm_wasm.tools.signature import ToolSignature
from rlm_wasm.tools.validation import ArgumentsSchema, SignatureSchema

_P = ParamSpec("_P")
_R = TypeVar("_R")
TOOLS_MAX: Final = 256
_DOC_CHARS_MAX: Final = 20_000
_CALLS_MAX: Final = 10_000_000
_PARALLEL_MAX: Final = 10_000
_COST_MAX: Final = 10**12


class Tool(Generic[_P, _R]):
    """A function that guests may call by `name`, and what its calls may take. `tool` makes one.

    Calling it calls the function. Its name, its docstring and its signature are what code sees of it.

    `timeout_ms` is for one call, the wait for a place among `parallel_max` included; `calls_max` counts the
    calls of one session, or of a run and all below it; `cost_microdollars` is what each costs the budget of a
    run. The policy may allow less of each.
    """

    def __init__(
        self,
        function: Callable[_P, _R],
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_ms: int = 30_000,
        parallel_max: int = 8,
        calls_max: int | None = None,
        cost_microdollars: int = 0,
        signature: ToolSignature | None = None,
        schema: ArgumentsSchema | None = None,
    ) -> None:
        if not callable(function):
            raise UsageError(f"a tool is a function, not a {type(function).__name__}")
        self.function: Final = function
        self.name: Final[str] = checked_tool_name(
            name or getattr(function, "__name__", type(function).__name__)
        )
        self.description: Final = _checked_text(
            self.name, inspect.getdoc(function) or "" if description is None else description
        )
        self.timeout_ms: Final = _checked(self.name, "timeout_ms", timeout_ms, 1, DAY_MS)
        self.parallel_max: Final = _checked(self.name, "parallel_max", parallel_max, 1, _PARALLEL_MAX)
        self.calls_max: Final = (
            None if calls_max is None else _checked(self.name, "calls_max", calls_max, 1, _CALLS_MAX)
        )
        self.cost_microdollars: Final = _checked(
            self.name, "cost_microdollars", cost_microdollars, 0, _COST_MAX
        )
        self.signature: Final = signature or ToolSignature.of(function, self.name)
        self.schema: Final[ArgumentsSchema] = schema or SignatureSchema(function, self.name, self.signature)
        call = getattr(function, "__call__", None)  # noqa: B004 - of an object that has an async one
        self.is_async: Final = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
        # Shared by all who have it, whichever event loops they are on.
        self.places: Final = Places(self.parallel_max)
        self.__doc__ = self.description or None

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call the function."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self.name}{self.signature}>"

    @property
    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema of the object that its arguments are."""
        return self.schema.json_schema()

    def told(self) -> dict[str, object]:
        """Return what the guest is told of it."""
        return {
            "name": self.name,
            "doc": self.description,
            "parameters": [each.description() for each in self.signature.parameters],
            "returns": self.signature.returns,
            "signature": str(self.signature),
        }


# What may be given where tools are wanted: a function is made to be one.
ToolLike: TypeAlias = Tool[..., Any] | Callable[..., Any]


@overload
def tool(function: Callable[_P, _R], /) -> Tool[_P, _R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout_ms: int = 30_000,
    parallel_max: int = 8,
    calls_max: int | None = None,
    cost_microdollars: int = 0,
) -> Callable[[Callable[_P, _R]], Tool[_P, _R]]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function, async or not, a tool: ``@tool``, or with what bounds it, ``@tool(timeout_ms=500)``.

    Its arguments are checked by its type hints before it is called; what it returns must have a JSON form.
    A `ToolError` that it raises is raised in the guest; of anything else the guest learns that it failed.
    The options are those of `Tool`.

    Raises:
        UsageError: its name cannot be one, a type hint means nothing, or a bound is out of range.
    """
    if function is not None:
        return Tool(function)
    return lambda function: Tool(function, **options)


def as_tools(given: Iterable[ToolLike]) -> tuple[Tool[..., Any], ...]:
    """Return the tools of an argument: those that are some, and plain functions made to be some.

    Raises UsageError: it is no collection, has two of one name, or too many.
    """
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Tool):
        raise UsageError(f"tools are several, such as a list, not a {type(given).__name__}")
    tools = tuple(each if isinstance(each, Tool) else Tool(each) for each in given)
    if len(tools) > TOOLS_MAX:
        raise UsageError(f"{len(tools)} tools are more than {TOOLS_MAX}")
    names = [each.name for each in tools]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"two tools are called {twice[0]}", hint="give one another name: Tool(function, name=…)"
        )
    return tools


def checked_tool_name(name: object) -> str:
    """Return a name that code can call. Raises UsageError."""
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or iskeyword(name):
        raise UsageError(f"{name!a} is no name of a function", hint="give it one: Tool(function, name=…)")
    if len(name) > TOOL_NAME_CHARS_MAX:
        raise UsageError(
            f"a tool's name has at most {TOOL_NAME_CHARS_MAX} characters, {name} has {len(name)}"
        )
    if name in RESERVED or name.startswith("_") or hasattr(builtins, name):
        raise UsageError(f"{name} is a name of Python's or the session's own; call the tool something else")
    return name


def _checked_text(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise UsageError(f"the description of the tool {name} is a str, not a {type(text).__name__}")
    if len(text) > _DOC_CHARS_MAX:
        raise UsageError(f"the description of the tool {name} has more than {_DOC_CHARS_MAX} characters")
    return text


def _checked(name: str, what: str, number: object, least: int, most: int) -> int:
    if type(number) is not int or not least <= number <= most:
        raise UsageError(f"{what} of the tool {name} is an int from {least} to {most}, not {number!r}")
    return number
