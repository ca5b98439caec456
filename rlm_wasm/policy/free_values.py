"""Values that a provider takes and a policy only passes on: fractions, and JSON of any form within bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic_core import PydanticCustomError

_NESTING_MAX: Final = 8
_VALUES_MAX: Final = 1_000
# Members of a request that are the host's to write: what is asked, of whom, how much may come back, how
# often. The ledger counts on them, and knows no price of tools, searches or plugins.
RESERVED_MEMBERS: Final = frozenset({
    "background",
    "best_of",
    "conversation",
    "fallbacks",
    "functions",
    "input",
    "instructions",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens",
    "mcp_servers",
    "messages",
    "model",
    "models",
    "n",
    "plugins",
    "previous_response_id",
    "prompt",
    "stream",
    "stream_options",
    "system",
    "tools",
    "web_search_options",
})  # fmt: skip


def fraction_to(most: int) -> Callable[[Any], float]:
    """Return a check for a number from 0 to `most`, whole or not; the problem it raises quotes nothing."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise _refused(f"must be a number from 0 to {most}")
        return value

    return check


def check_extra_body(value: Any) -> Mapping[str, Any]:
    """Return members that go into each request, unchangeable, or raise what the problem is."""
    if not isinstance(value, Mapping):
        raise _refused("must be a table")
    # Servers in some languages read names without regard to case.
    if taken := sorted(key for key in value if isinstance(key, str) and key.lower() in RESERVED_MEMBERS):
        raise _refused(f"must not hold {taken[0]!r}: what a query asks, and may cost, depends on it")
    left = [_VALUES_MAX]
    frozen = _frozen(value, _NESTING_MAX, left)
    assert isinstance(frozen, Mapping)
    return frozen


def _frozen(value: Any, nesting: int, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise _refused(f"must not hold more than {_VALUES_MAX} values")
    if isinstance(value, str | bool):
        return value
    # What JSON has no number for, and what another reader would round.
    if isinstance(value, int) and -(2**53) < value < 2**53:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if not nesting:
        raise _refused(f"must not be nested deeper than {_NESTING_MAX}")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise _refused("must have keys that are strings")
        return MappingProxyType({key: _frozen(each, nesting - 1, left) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_frozen(each, nesting - 1, left) for each in value)
    raise _refused("must hold strings, numbers within 2**53, true, false, arrays and tables only")


def _refused(message: str) -> PydanticCustomError:
    # As a value, not as a template: what is told of the file may hold braces.
    return PydanticCustomError("value", "{problem}", {"problem": message})
