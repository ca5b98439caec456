"""The cell that gives a guest of smolagents its functions, among them the one that ends the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rlm_wasm.integrations.host_functions import filled, functions_cell

# The tool through which all are called; the policy must allow it.
TOOL_NAME: Final = "smolagents_tool"
FINAL_ANSWER: Final = "final_answer"

# Code that catches everything does not undo its answer: the host has it by then.
_SOURCE: Final = '''
def __rlm_final(doc):
    import json
    # Whatever code calls by these names.
    from builtins import dict, frozenset, isinstance, list, set, str, tuple

    def sendable(value):
        if isinstance(value, dict):
            return {key if isinstance(key, str) else str(key): sendable(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [sendable(item) for item in value]
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return str(value)
        return value

    class FinalAnswer(BaseException):
        """final_answer was called: the task is over."""

    def final_answer(*args, **kwargs):
        try:
            TOOL("final_answer", list(args), kwargs)
        except TypeError:  # something has no JSON form
            TOOL("final_answer", sendable(args), sendable(kwargs))
        raise FinalAnswer

    final_answer.__doc__ = doc
    final_answer.__module__ = "__main__"
    return final_answer


final_answer = __rlm_final(TOLD)
del __rlm_final
'''


def binding(functions: Mapping[str, str]) -> str:
    """Return the cell that gives the guest these functions, by name with their docstrings."""
    others = {name: doc for name, doc in functions.items() if name != FINAL_ANSWER}
    cell = functions_cell(TOOL_NAME, others)
    return cell + filled(_SOURCE, TOOL_NAME, functions[FINAL_ANSWER]) if FINAL_ANSWER in functions else cell
