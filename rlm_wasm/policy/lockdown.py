"""The key `sandbox.lockdown`: which layers a worker must have, by the word of a grade or by their names."""

from __future__ import annotations

import difflib
from typing import Any, Final

from pydantic_core import PydanticCustomError

from rlm_wasm.lockdown import LAYERS, LAYERS_OF, Grade

_WORDS: Final = tuple(grade.value for grade in LAYERS_OF)
_CHOICE: Final = f"must be {', '.join(chr(34) + word + chr(34) for word in _WORDS)}, or an array of layers"
# What of an unknown name is looked at for one that was meant; no layer's is half as long.
_NAME_CHARS_MAX: Final = 40


def check_lockdown(value: Any) -> str | tuple[str, ...]:
    """Return the value of the key, or raise what the problem is, which never quotes it."""
    if isinstance(value, str):
        if value not in _WORDS:
            raise _refused(_CHOICE)
        return value
    if not isinstance(value, list) or not all(isinstance(layer, str) for layer in value):
        raise _refused(_CHOICE)
    if not value:
        raise _refused("must name a layer; require_lockdown = false is how none is required")
    for layer in value:
        if layer not in LAYERS:
            meant = difflib.get_close_matches(layer[:_NAME_CHARS_MAX], LAYERS, n=1)
            hint = f"; did you mean {meant[0]!r}?" if meant else "; `rlm-wasm doctor` shows their names"
            raise _refused(f"names what is no layer{hint}")
    if len(set(value)) != len(value):
        raise _refused("names a layer twice")
    return tuple(value)


def _refused(message: str) -> PydanticCustomError:
    # As a value, not as a template: a name from the file may hold braces.
    return PydanticCustomError("lockdown", "{problem}", {"problem": message})


def required_layers(lockdown: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the layers that a value of the key requires; without it, all."""
    if lockdown is None:
        return LAYERS
    return LAYERS_OF[Grade(lockdown)] if isinstance(lockdown, str) else lockdown
