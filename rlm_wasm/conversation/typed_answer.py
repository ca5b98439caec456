"""A typed answer, as the loop sees it: how it was given, and what came of checking it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

# Of what is wrong with an answer, so much is told.
PROBLEMS_MAX: Final = 8


class AnswerForm(StrEnum):
    """How a model gave an answer, which says what the text of it means."""

    JSON = "json"  # a value of the session, as its JSON
    TEXT = "text"  # a str of the session
    WRITTEN = "written"  # FINAL(...) as text, outside of code


@dataclass(frozen=True, slots=True)
class FittingAnswer:
    """It is what was wanted. `value`: as what."""

    value: Any


@dataclass(frozen=True, slots=True)
class UnfitAnswer:
    """It is something else. Each problem says where, as a JSON path from `$`, and what."""

    problems: tuple[str, ...]


def unfit_note(problems: Sequence[str]) -> str:
    """Return what a model is told whose answer is not what was wanted."""
    lines = "\n".join(f"- {problem}" for problem in problems)
    return (
        "The answer was not accepted, because it does not fit the schema:\n"
        f"{lines}\nThe session is as the code left it. Correct the answer, then finish again."
    )
