"""A block of a reply that ran, and what the model is to see of it."""

from __future__ import annotations

from dataclasses import dataclass

from rlm_wasm.results import CellResult


@dataclass(frozen=True, slots=True)
class AnsweredQuery:
    """A query that was answered during a cell."""

    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class RanCell:
    """A block and what it came to. `variables` are those of the session now, whatever the cell did to it.

    `answered` are the first of its queries that were answered: where the session no longer knows of them, the
    model is told, and nobody pays for them twice. `answers_cut` is how many answers a cap on tokens cut off.
    """

    source: str
    result: CellResult
    variables: tuple[str, ...] = ()
    answered: tuple[AnsweredQuery, ...] = ()
    answers_cut: int = 0
