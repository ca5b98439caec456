"""Code mode for pydantic-ai: a toolset whose tools a model calls from Python that runs behind our wall.

    agent = Agent(model, toolsets=[code_mode(weather, population)])

The model is given one tool, `run_python`; the others are functions in there. The package `pydantic-ai-slim`,
2.60 or later, is an extra: ``pip install 'rlm-wasm[pydantic-ai]'``.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final

import anyio
from pydantic_core import SchemaValidator, ValidationError, core_schema

from rlm_wasm.errors import ToolArgumentError, ToolError, UsageError
from rlm_wasm.integrations.host_functions import TIMEOUT_MS, plain
from rlm_wasm.integrations.python_sessions import DESCRIPTION, TOOL_NAME, PythonSessions
from rlm_wasm.integrations.tool_policy import with_tools
from rlm_wasm.policy.model import Policy
from rlm_wasm.tools.signature import ToolParameter, ToolSignature
from rlm_wasm.tools.tool import Tool, checked_tool_name

try:
    from pydantic_ai import RunContext, ToolDefinition
    from pydantic_ai.exceptions import (
        AgentRunError,
        ApprovalRequired,
        CallDeferred,
        ModelRetry,
        ToolFailed,
        UserError,
    )
    from pydantic_ai.function_signature import FunctionSignature
    from pydantic_ai.messages import ToolCallPart, ToolReturn
    from pydantic_ai.tool_manager import ToolManager
    from pydantic_ai.tools import ToolDenied
    from pydantic_ai.toolsets import AbstractToolset, CombinedToolset, FunctionToolset, WrapperToolset
    from pydantic_ai.toolsets.abstract import ToolsetTool
except ImportError as error:
    raise ImportError("pydantic-ai is not installed: pip install 'rlm-wasm[pydantic-ai]'") from error

_CODE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"code": {"type": "string", "description": "The Python code to run."}},
    "required": ["code"],
    "additionalProperties": False,
}
_CODE_VALIDATOR: Final = SchemaValidator(
    core_schema.typed_dict_schema({"code": core_schema.typed_dict_field(core_schema.str_schema())})
)
_SIDE_BY_SIDE: Final = (
    "The code may call the functions below, which run outside of the sandbox. Several calls are under way at "
    "the same time with `name.map([…])` or `await asyncio.gather(…)`."
)
_DOC_CHARS_MAX: Final = 20_000
_PROBLEMS_MAX: Final = 8


def pydantic_ai_policy(base: Policy | None = None) -> Policy:
    """Return `base`, or the strictest built-in policy that this machine gives, with any tool allowed.

    There are no others than those of the toolset.

    Raises:
        LockdownError, HostExhausted: no `base`, and no process can be locked down here.
    """
    return with_tools(base, ["*"])


def code_mode(
    *tools: Any,
    policy: Policy | None = None,
    sessions: PythonSessions | None = None,
    name: str = TOOL_NAME,
    session_key: Callable[[RunContext[Any]], str] | None = None,
) -> CodeMode:
    """Return a toolset that gives a model one tool, by which it runs code that calls these.

    `tools` are what pydantic-ai takes: functions, `Tool`s and toolsets. Each run of an agent has a session of
    its own; with a `session_key`, all runs of one key share one. The sessions are those of `sessions`, which
    whoever made them closes; or of the toolset's own, under `policy` (`pydantic_ai_policy()` without one),
    until it is collected or the program ends.

    Raises what `PythonSessions` raises.
    """
    if sessions is None:
        sessions = PythonSessions(policy or pydantic_ai_policy())
    elif policy is not None:
        raise UsageError("sessions have their policy: give one of the two")
    toolsets = [each for each in tools if isinstance(each, AbstractToolset)]
    functions = [each for each in tools if not isinstance(each, AbstractToolset)]
    if functions or not toolsets:
        toolsets.insert(0, FunctionToolset(functions))
    wrapped = toolsets[0] if len(toolsets) == 1 else CombinedToolset(toolsets)
    return CodeMode(wrapped, sessions, checked_tool_name(name), session_key)


@dataclass(kw_only=True)
class _RunPython(ToolsetTool[Any]):  # type: ignore[misc]  # the package may be absent
    """The one tool; `functions` are those of the toolset that its code may call, by their names there."""

    functions: dict[str, ToolsetTool[Any]] = field(default_factory=dict)


@dataclass
class CodeMode(WrapperToolset[Any]):  # type: ignore[misc]  # the package may be absent
    """A toolset whose tools are called from code. `code_mode` makes one.

    A tool that waits for an approval or for somebody outside of the run, and one that is still to be found,
    stays a tool of the model's, beside `run_python`.
    """

    sessions: PythonSessions
    tool_name: str = TOOL_NAME
    session_key: Callable[[RunContext[Any]], str] | None = None
    # Of one run: the key of a session that ends with it.
    run_key: str | None = None

    async def for_run(self, ctx: RunContext[Any]) -> CodeMode:
        """Return the toolset of one run, with a session of its own unless there is a `session_key`."""
        wrapped = await self.wrapped.for_run(ctx)
        own: Any = None if self.session_key else f"run {uuid.uuid4()}"
        changed: dict[str, Any] = {"wrapped": wrapped, "run_key": own}
        return replace(self, **changed)

    async def __aexit__(self, *args: Any) -> bool | None:
        """Free the run's session."""
        try:
            if self.run_key is not None:
                with anyio.CancelScope(shield=True):
                    await self.sessions.end_async(self.run_key)
        finally:
            ended: bool | None = await self.wrapped.__aexit__(*args)
        return ended

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        """Return the one tool, and those that code cannot call."""
        shown: dict[str, ToolsetTool[Any]] = {}
        functions: dict[str, ToolsetTool[Any]] = {}
        for name, tool in (await self.wrapped.get_tools(ctx)).items():
            if tool.tool_def.kind != "function" or tool.tool_def.defer_loading:
                shown[name] = tool
            else:
                functions[_guest_name(name, functions)] = tool
        if self.tool_name in shown:
            raise UserError(f"two tools are called {self.tool_name}: give code_mode another name")
        definition = ToolDefinition(
            name=self.tool_name, parameters_json_schema=_CODE, description=_described(functions)
        )
        shown[self.tool_name] = _RunPython(
            toolset=self,
            tool_def=definition,
            max_retries=1,
            args_validator=_CODE_VALIDATOR,
            functions=functions,
        )
        return shown

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Run code, and return what the model is to see of it; or call a tool that code cannot."""
        if not isinstance(tool, _RunPython):
            return await self.wrapped.call_tool(name, tool_args, ctx, tool)
        key = self.run_key if self.session_key is None else self.session_key(ctx)
        calls = _Calls(self.wrapped, ctx, tool.functions)
        text = await self.sessions.run_async(tool_args["code"], key or "", tools=calls.tools())
        if calls.interruption is not None:
            raise calls.interruption
        return text


class _Calls:
    """The calls of one piece of code: asked for on the sandbox's loop, made on that of the agent's run."""

    def __init__(
        self, toolset: AbstractToolset[Any], ctx: RunContext[Any], functions: dict[str, ToolsetTool[Any]]
    ) -> None:
        self._functions: Final = functions
        self._loop: Final = asyncio.get_running_loop()
        # The library's way to validate, approve, trace and call.
        by_name = {tool.tool_def.name: tool for tool in functions.values()}
        self._manager: Final[Any] = ToolManager(
            toolset=toolset, root_capability=ctx.root_capability, ctx=ctx, tools=by_name
        )
        self._id: Final = ctx.tool_call_id or self._manager.__class__.__name__
        self._numbers: Final = count(1)
        # What ends the agent's run, and is not for its code.
        self.interruption: BaseException | None = None

    def tools(self) -> list[Tool[..., Any]]:
        """Return the functions as tools of ours."""
        return [self._tool(name, tool.tool_def) for name, tool in self._functions.items()]

    def _tool(self, name: str, definition: ToolDefinition) -> Tool[..., Any]:
        async def call(**arguments: Any) -> Any:
            made = asyncio.run_coroutine_threadsafe(self._call(definition.name, arguments), self._loop)
            return await asyncio.wrap_future(made)

        shape = definition.function_signature
        return Tool(
            call,
            name=name,
            description=(definition.description or "")[:_DOC_CHARS_MAX],
            timeout_ms=TIMEOUT_MS,
            parallel_max=1 if definition.sequential else 8,
            signature=ToolSignature(tuple(_parameters(shape)), str(shape.return_type)),
            schema=_Arguments(
                {str(each.name): str(named) for named, each in shape.params.items()},
                definition.parameters_json_schema,
            ),
        )

    async def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        part = ToolCallPart(name, arguments, tool_call_id=f"{self._id}-{next(self._numbers)}")
        try:
            made = await self._manager.handle_call(part, wrap_validation_errors=False)
        except ValidationError as error:
            raise ToolArgumentError("; ".join(_problems(error))) from None
        except (ModelRetry, ToolFailed) as error:  # said for the model
            raise ToolError(error.message) from error
        except (ApprovalRequired, CallDeferred) as error:
            raise ToolError(f"{name} waits for somebody outside of this run: code cannot call it") from error
        except (AgentRunError, UserError) as error:
            self.interruption = error
            raise ToolError("the run ends") from error
        if isinstance(made, ToolDenied):
            raise ToolError(made.message)
        return plain(made.return_value if isinstance(made, ToolReturn) else made)


class _Arguments:
    """Decodes a call's arguments; the library validates them, with its own validator of the tool."""

    def __init__(self, names: dict[str, str], schema: dict[str, Any]) -> None:
        self._names: Final = names
        self._schema: Final = schema

    def json_schema(self) -> dict[str, Any]:
        """Return the tool's."""
        return self._schema

    def read(self, text: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments by the names of the schema. Raises ToolArgumentError."""
        try:
            decoded: Any = json.loads(text)
        except ValueError:
            decoded = None
        if not isinstance(decoded, dict):
            raise ToolArgumentError("the arguments are no JSON object")
        return (), {self._names.get(str(name), str(name)): value for name, value in decoded.items()}


class _Default:
    """What stands in a signature for a default of the host's."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _parameters(shape: Any) -> Iterable[ToolParameter]:
    for each in shape.params.values():
        required = each.default is None
        yield ToolParameter(
            each.name, "either", str(each.type), required, None if required else _Default(each.default)
        )


def _guest_name(name: str, taken: Iterable[str]) -> str:
    """Return what code calls a tool: its name where it can be one, else what is next to it."""
    made = re.sub(r"\W", "_", name, flags=re.ASCII)
    for candidate in (made, f"tool_{made}", *(f"tool_{made}_{number}" for number in range(2, 99))):
        try:
            if candidate not in taken:
                return checked_tool_name(candidate)
        except UsageError:
            continue
    raise UserError(f"code cannot call a tool by the name {name!a}")


def _described(functions: dict[str, ToolsetTool[Any]]) -> str:
    if not functions:
        return DESCRIPTION
    shapes = [tool.tool_def.function_signature for tool in functions.values()]
    unclear = FunctionSignature.get_conflicting_type_names(shapes)
    types = FunctionSignature.render_type_definitions(shapes, unclear)
    rendered = [
        shape.render(
            "...", name=name, description=tool.tool_def.description or "", conflicting_type_names=unclear
        )
        for (name, tool), shape in zip(functions.items(), shapes, strict=True)
    ]
    code = "\n\n".join([*types, *rendered])
    return f"{DESCRIPTION}\n\n{_SIDE_BY_SIDE}\n\n```python\n{code}\n```"


def _problems(error: ValidationError) -> Iterable[str]:
    for each in error.errors(include_url=False, include_context=False, include_input=False)[:_PROBLEMS_MAX]:
        place = ".".join(map(str, each["loc"]))
        yield f"{place}: {each['msg']}" if place else each["msg"]
