"""A tool for LangChain and LangGraph: their agents' models run Python in sessions of ours.

    agent = create_agent(model, tools=[python_tool()])

The package `langchain-core`, 1.0 or later, is an extra: ``pip install 'rlm-wasm[langchain]'``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

from rlm_wasm.integrations.python_sessions import TOOL_NAME, PythonSessions, described
from rlm_wasm.policy.model import Policy
from rlm_wasm.tools.tool import ToolLike

try:
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import StructuredTool
except ImportError as error:
    raise ImportError("langchain-core is not installed: pip install 'rlm-wasm[langchain]'") from error

Code = Annotated[str, "The Python code to run."]


def thread_of(config: RunnableConfig) -> str:
    """Return the `thread_id` of what runs, which LangGraph knows a conversation by; or nothing."""
    return str((config.get("configurable") or {}).get("thread_id", ""))


def python_tool(
    sessions: PythonSessions | None = None,
    *,
    policy: Policy | None = None,
    tools: Iterable[ToolLike] = (),
    name: str = TOOL_NAME,
    description: str | None = None,
    session_key: Callable[[RunnableConfig], str] = thread_of,
) -> Any:
    """Return a `StructuredTool`, sync and async, by which a model runs code.

    Each conversation has a session of its own, by `session_key`: where nothing is configured as `thread_id`,
    all share one. The sessions are those of `sessions`, which whoever made them closes; or of the tool's own,
    with `policy` and `tools` as `PythonSessions` has them, until the tool is collected or the program ends.

    Raises what `PythonSessions` raises.
    """
    used = PythonSessions.given_or_own(sessions, policy, tools)

    def run_python(code: Code, config: RunnableConfig) -> str:
        return used.run(code, session_key(config))

    async def run_python_async(code: Code, config: RunnableConfig) -> str:
        return await used.run_async(code, session_key(config))

    return StructuredTool.from_function(
        run_python, run_python_async, name=name, description=description or described(used.tools)
    )
