"""The cells that give a guest of DSPy's its functions, by the names of the host's, and SUBMIT."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

from rlm_wasm.integrations.host_functions import filled, functions_cell

# The tool through which all are called; the policy must allow it.
TOOL_NAME: Final = "dspy_tool"
SUBMIT: Final = "SUBMIT"

# Code that catches everything does not undo what it submitted: the host has it by then.
_SOURCE: Final = '''
def __rlm_submit(told):
    import json
    from builtins import dict, len, repr, set, zip  # whatever code calls by these names

    fields = json.loads(told)

    class Submitted(BaseException):
        """SUBMIT was called: the run is over."""

    def sendable(value):
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return repr(value)
        return value

    def SUBMIT(*args, **kwargs):
        """End the run with these as its outputs."""
        names = fields
        if names is None:
            if len(args) != 1 or kwargs:
                raise TypeError("SUBMIT takes one value")
            names, kwargs = ["output"], {"output": args[0]}
        elif args and kwargs:
            raise TypeError("SUBMIT takes its values by position or by name, not both")
        elif args:
            if len(args) > len(names):
                raise TypeError(f"SUBMIT takes {', '.join(names)}, not {len(args)} values")
            kwargs = dict(zip(names, args))
        if set(kwargs) != set(names):
            raise TypeError(f"SUBMIT takes {', '.join(names)}, not {', '.join(kwargs) or 'nothing'}")
        try:
            TOOL("SUBMIT", [], kwargs)
        except TypeError:  # something has no JSON form
            TOOL("SUBMIT", [], {name: sendable(value) for name, value in kwargs.items()})
        raise Submitted

    return SUBMIT


SUBMIT = __rlm_submit(TOLD)
del __rlm_submit
'''


def binding(functions: Mapping[str, str], gone: Iterable[str], fields: Iterable[str] | None) -> str:
    """Return the cell that gives the guest these functions, by name with their docstrings, and SUBMIT.

    `gone` are names that it had; `fields` are what SUBMIT takes, None: one value.
    """
    told = json.dumps(None if fields is None else list(fields), ensure_ascii=True)
    return functions_cell(TOOL_NAME, functions, gone) + filled(_SOURCE, TOOL_NAME, told)
