"""The cells that give a guest of `rlms` its scaffold, and look at it after each cell of the model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rlm_wasm.integrations.host_functions import filled, functions_cell

# The tool through which all functions are called; the policy must allow it.
TOOL_NAME: Final = "rlms_tool"
# What the guest calls when its answer is ready.
READY: Final = "answer"
# The cell that puts back what a cell may have taken, and returns the names of variables.
AFTER: Final = "__rlm_after()"

_SOURCE: Final = """
def __rlm_scaffold(kept):
    # Whatever code calls by these names.
    from builtins import bool, dict, float, int, isinstance, list, str, tuple, type

    module = globals()

    class Answer(dict):
        def __setitem__(self, key, value):
            dict.__setitem__(self, key, value)
            if key == "ready" and value:
                TOOL("answer", [str(self.get("content", ""))], {})

    def after():
        found = module.get("answer")
        if type(found) is not Answer:
            fresh = Answer(content="", ready=False)
            if isinstance(found, dict):
                fresh.update(found)
            module["answer"] = fresh
            if fresh.get("ready"):
                TOOL("answer", [str(fresh.get("content", ""))], {})
        module.update(kept)
        for name in ("context", "history"):
            if name + "_0" in module:
                module[name] = module[name + "_0"]
        kinds = (str, int, float, bool, list, dict, tuple)
        return [name for name, value in module.items() if name[:1] != "_" and isinstance(value, kinds)]

    module["answer"] = Answer(content="", ready=False)
    return after


__rlm_after = __rlm_scaffold({name: globals()[name] for name in __import__("json").loads(TOLD)})
del __rlm_scaffold
"""


def scaffold_cell(functions: Mapping[str, str], own: str) -> str:
    """Return the cell that gives the guest these functions and the library's scaffold.

    `own` is the JSON list of those names that come back after a cell has taken them.
    """
    return functions_cell(TOOL_NAME, functions) + filled(_SOURCE, TOOL_NAME, own)
