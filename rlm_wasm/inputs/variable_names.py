"""The variable of the guest that each input is bound to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rlm_wasm.errors import UsageError

FIRST: Final = "context"


def split(argument: str) -> tuple[str | None, str]:
    """Return the name and the file of NAME=FILE, or no name and the whole of anything else."""
    name, equals, file = argument.partition("=")
    return (name, file) if equals and name.isidentifier() and file else (None, argument)


def named(given: Sequence[str | None]) -> list[str]:
    """Return the name of each input, of which some were given one.

    Those without are called ``context``, ``context_2``, ``context_3`` and so on, in their order, whatever
    stands between them; what is taken is passed over.

    Raises:
        UsageError: two were given the same name.
    """
    taken = set()
    for name in given:
        if name in taken:
            raise UsageError(f"two inputs are called {name}")
        if name is not None:
            taken.add(name)
    found, number = [], 1
    for name in given:
        while name is None:
            free = FIRST if number == 1 else f"{FIRST}_{number}"
            number += 1
            name = None if free in taken else free
        found.append(name)
    return found
