"""`GivenVariables`: a program's variables as its guest gets them, each once for each value that it has."""

from __future__ import annotations

from collections.abc import Callable
from keyword import iskeyword
from typing import Final

from rlm_wasm.errors import UsageError
from rlm_wasm.values import JsonText

# Under this name a value comes to the guest, before a cell gives it the one that code knows it by: a program
# may call a variable what a session calls something of its own.
STAGED: Final = "rlm_staged_value"
# A value as it is sent.
Sent = str | bytes | JsonText


class GivenVariables:
    """What was given to one session: what code made of it stays until the program gives another value."""

    def __init__(self) -> None:
        self._given: Final[dict[str, Sent]] = {}

    def give(
        self, name: str, value: Sent, load: Callable[[str, Sent], object], run: Callable[[str], object]
    ) -> None:
        """Bind a variable, where it has not this value: `load` binds one of the session's, `run` runs a cell.

        Raises what the two raise, and UsageError: code cannot call a variable so.
        """
        checked_name(name)
        before = self._given.get(name)
        if before is value or (type(before) is type(value) and before == value):
            return
        load(STAGED, value)
        run(f"{name} = {STAGED}\ndel {STAGED}")
        self._given[name] = value


def checked_name(name: object) -> str:
    """Return a name that code can call a variable by. Raises UsageError."""
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or iskeyword(name):
        raise UsageError(f"{name!a} cannot be the name of a variable")
    return name
