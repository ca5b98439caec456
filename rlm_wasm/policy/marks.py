"""Marks on the types of a policy's fields, for values that are no number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Text:
    """What a text may be: how long, and of which form."""

    pattern: str | None = None
    least: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Entries:
    """How many entries an array or a table of free keys may have."""

    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class CheckedBy:
    """What a value may be that takes more than bounds to say."""

    check: Callable[[Any], Any]
