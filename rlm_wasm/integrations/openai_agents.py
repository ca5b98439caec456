"""A function tool for the OpenAI Agents SDK: its agents' models run Python in sessions of ours.

    agent = Agent(name="…", tools=[python_tool()])

The package `openai-agents`, 0.20 or later, is an extra: ``pip install 'rlm-wasm[openai-agents]'``.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from itertools import count
from typing import Annotated, Any, Final

from rlm_wasm.integrations.python_sessions import TOOL_NAME, PythonSessions, described
from rlm_wasm.policy.model import Policy
from rlm_wasm.tools.tool import ToolLike

try:
    from agents import RunContextWrapper, function_tool
except ImportError as error:
    raise ImportError("openai-agents is not installed: pip install 'rlm-wasm[openai-agents]'") from error

Code = Annotated[str, "The Python code to run."]


def python_tool(
    sessions: PythonSessions | None = None,
    *,
    policy: Policy | None = None,
    tools: Iterable[ToolLike] = (),
    name: str = TOOL_NAME,
    description: str | None = None,
    session_key: Callable[[RunContextWrapper[Any]], str] | None = None,
    **options: Any,
) -> Any:
    """Return a `FunctionTool` by which a model runs code.

    Each run of an agent has a session of its own; with a `session_key`, all runs of one key share one. The
    sessions are those of `sessions`, which whoever made them closes; or of the tool's own, with `policy` and
    `tools` as `PythonSessions` has them, until the tool is collected or the program ends. `options` are those
    of the SDK's `function_tool`: `needs_approval`, say.

    Raises what `PythonSessions` raises.
    """
    used = PythonSessions.given_or_own(sessions, policy, tools)
    key_of = session_key or _RunKeys(used)

    async def run_python(context: RunContextWrapper[Any], code: Code) -> str:
        return await used.run_async(code, key_of(context))

    return function_tool(
        name_override=name, description_override=description or described(used.tools), **options
    )(run_python)


class _RunKeys:
    """A key for each run: what its calls have in common is the object that counts its tokens."""

    def __init__(self, sessions: PythonSessions) -> None:
        self._sessions: Final = sessions
        self._keys: Final[dict[int, str]] = {}
        self._numbers: Final = count(1)

    def __call__(self, context: RunContextWrapper[Any]) -> str:
        run = id(context.usage)
        if run not in self._keys:
            self._keys[run] = f"run {next(self._numbers)}"
            weakref.finalize(context.usage, self._over, run).atexit = False
        return self._keys[run]

    def _over(self, run: int) -> None:
        self._sessions.end_soon(self._keys.pop(run))
