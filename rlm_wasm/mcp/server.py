"""The server that MCP clients meet: the library's, with our calls behind it.

The library speaks the protocol. Everything that a client sends comes through `_called`: who it is, how many
calls it has under way, and which arguments it gives are looked at there, and nowhere else.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import anyio
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, ListToolsResult, TextContent, Tool, ToolAnnotations

from rlm_wasm.errors import InternalError, Overloaded, RlmWasmError, ToolArgumentError, UsageError
from rlm_wasm.mcp.call_results import CallProblem, RanPython, as_json
from rlm_wasm.mcp.call_schema import CallSchema
from rlm_wasm.mcp.client_calls import CALLS, ClientCalls, Served
from rlm_wasm.outcomes import Outcome
from rlm_wasm.tools.validation import json_schema_of
from rlm_wasm.version import VERSION

# Where the operator is told what a client is not.
LOG: Final = logging.getLogger("rlm_wasm.mcp")
_INSTRUCTIONS: Final = (
    "Python in a sandbox (CPython in WebAssembly): no network, no file of the host. Sessions keep variables "
    "and files between calls; fork one to try several ways on."
)
_READ_ONLY: Final = frozenset({"list_sessions", "read_file", "list_files"})

# Says which client a request is from, by what came with it over HTTP; None over a pipe.
ClientOf = Callable[[Any], str]


def the_only_client(request: Any) -> str:
    """Return the name of the client at the other end of a pipe."""
    return ""


class McpServer:
    """A server of calls, for one pipe or for HTTP. `server` is the library's."""

    def __init__(self, served: Served, client_of: ClientOf = the_only_client) -> None:
        self._served = served
        self._client_of = client_of
        self._under_way: Counter[str] = Counter()
        self._schemas = {name: CallSchema(name) for name in CALLS if name in served.offered()}
        self._tools: Final = ListToolsResult(tools=[_tool(schema) for schema in self._schemas.values()])
        self.server: Final[Any] = Server(
            "rlm-wasm",
            version=VERSION,
            instructions=_INSTRUCTIONS,
            on_list_tools=self._listed,
            on_call_tool=self._called,
        )

    async def _listed(self, context: Any, params: Any) -> Any:
        return self._tools

    async def _called(self, context: Any, params: Any) -> Any:
        schema = self._schemas.get(params.name)
        if schema is None:
            raise MCPError(code=INVALID_PARAMS, message=f"there is no tool {params.name[:100]!a}")
        client, most = self._client_of(context.request), self._served.limits.calls_max
        if self._under_way[client] >= most:
            return _refusal(
                Overloaded(
                    f"{most} calls are under way; mcp.calls_max is {most}",
                    hint="wait for one to end, or raise `mcp.calls_max` in the policy",
                )
            )
        self._under_way[client] += 1
        try:
            return await self._performed(schema, client, params.arguments or {}, context.session)
        except InternalError:
            raise
        except RlmWasmError as error:
            return _refusal(error)
        except Exception:
            LOG.exception("the call %s failed", schema.name)
            return _refusal(InternalError("an internal error; this server's stderr has more"))
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]

    async def _performed(self, schema: CallSchema, client: str, given: dict[str, Any], session: Any) -> Any:
        async def report(number: int, line: str) -> None:
            await session.report_progress(number, None, line)

        limits = self._served.limits
        arguments = schema.read(_text(given, limits.message_bytes_max))
        call = getattr(ClientCalls(self._served, client, report), schema.name)
        result = await call(**arguments)
        await anyio.lowlevel.checkpoint()
        data, text = as_json(result, limits.result_bytes_max)
        return CallToolResult(
            content=[TextContent(type="text", text=text)],
            structured_content=data,
            is_error=isinstance(result, RanPython) and result.outcome != Outcome.COMPLETED,
        )


def _tool(schema: CallSchema) -> Any:
    """Return what a client is told of a call."""
    return Tool(
        name=schema.name,
        description=schema.description,
        input_schema=schema.arguments_schema(),
        output_schema=json_schema_of(schema.result_type),
        annotations=ToolAnnotations(
            read_only_hint=schema.name in _READ_ONLY,
            destructive_hint=schema.name == "close_session",
            open_world_hint=schema.name == "ask_over_files",
        ),
    )


def _text(given: dict[str, Any], bytes_max: int) -> bytes:
    """Return arguments as the JSON text that they came as. Raises UsageError: too large, or too deep."""
    try:
        text = json.dumps(given, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise ToolArgumentError("the arguments are no JSON, or nested too deeply") from error
    # Escapes make it longer than it came: six bytes for what may have been one.
    if len(text) > 6 * bytes_max:
        raise UsageError(f"arguments of {len(text)} bytes; mcp.message_bytes_max is {bytes_max}")
    return text


def _refusal(error: RlmWasmError) -> Any:
    problem = CallProblem.of(error)
    lines = [f"{problem.type}: {problem.message}", *([f"hint: {problem.hint}"] if problem.hint else [])]
    told = {name: getattr(problem, name) for name in ("type", "message", "hint", "key", "limit")}
    return CallToolResult(
        content=[TextContent(type="text", text="\n".join(lines))],
        structured_content={"problem": told},
        is_error=True,
    )
