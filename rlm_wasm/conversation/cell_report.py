"""A finished cell as the loop and the model get to see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AnsweredQuery:
    """A query that was answered during a cell."""

    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class CellReport:
    """One finished cell.

    `outcome` is "completed" or the `outcome` of a GuestError. `result` is the repr of the last
    expression, `error` the traceback or the sentence that says why the cell was stopped, `finish`
    the answer if the cell finished the run, `draft` what it would answer so far, if that is new.
    `session_lost` is whether the session had to be taken back to its state before the cell;
    `queries_answered` then saves the model from asking again.
    """

    outcome: str
    stdout: str = ""
    stderr: str = ""
    result: str | None = None
    error: str | None = None
    variables: tuple[str, ...] = ()
    finish: str | None = None
    session_lost: bool = False
    restored: bool = True
    queries_answered: tuple[AnsweredQuery, ...] = ()
    draft: str | None = None
