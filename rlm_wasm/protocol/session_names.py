"""The names of a session's own: what no input and no tool may be called."""

from __future__ import annotations

from typing import Final

# Names of the REPL's own, which an input would hide or be hidden by.
RESERVED: Final = frozenset(
    {
        *("answer", "budget", "llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched"),
        *("FINAL", "FINAL_VAR", "SHOW_VARS"),
        *("QueryError", "BudgetExceeded", "ProviderError", "QueryTimeout", "QueryCancelled"),
        *("DepthExceeded", "ChildFailed", "LimitExceeded", "CutAnswer"),
        *("ToolError", "ToolArgumentError", "ToolTimeout"),
        *("_", "__name__", "__builtins__"),
    }
)
# Under this name the guest takes what it is told of the tools; no input can have it.
TOOLS_NAME: Final = "__rlm_tools__"
# Under this one it is told that the answer is to be a value.
OUTPUT_NAME: Final = "__rlm_output__"
