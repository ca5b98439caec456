"""Observations, what the model gets to see of a cell: bounded, chosen, in the form that trained models know.

The form is `REPL output:` and a body of stdout, stderr, error and variable names, `No output` if all
are empty, and `... + [n chars...]` where something was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rlm_wasm.conversation.dialect import Dialect
from rlm_wasm.conversation.ran_cell import AnsweredQuery, RanCell
from rlm_wasm.errors import GuestError, GuestException
from rlm_wasm.limits import ObservationLimits
from rlm_wasm.outcomes import Outcome, SessionState
from rlm_wasm.results import CellResult
from rlm_wasm.scheduler.messages import Message
from rlm_wasm.scheduler.pricing import utf8_bytes

_NOTES: Final[dict[Outcome, str]] = {
    Outcome.FUEL_EXHAUSTED: "The cell was stopped: it used up its fuel. Do less work in one cell.",
    Outcome.MEMORY_EXCEEDED: "The cell was stopped: it needed more memory than it may have. Work on smaller "
    "parts.",
    Outcome.DEADLINE_EXCEEDED: "The cell was stopped: it ran too long. Do less work in one cell.",
    Outcome.OUTPUT_EXCEEDED: "The cell was stopped: it printed too much. Print only what you need to read.",
    Outcome.REQUESTS_EXCEEDED: "The cell was stopped: it went on asking after its requests were used up. Let "
    "what a query raises end the loop, and ask less in one cell.",
    Outcome.BOUNDARY_VIOLATION: "The cell was stopped: it sent the host something that is not a valid "
    "request.",
    Outcome.GUEST_TRAP: "The cell was stopped: the interpreter crashed, most often through very deep "
    "recursion.",
    Outcome.CANCELLED: "The cell was cancelled.",
}
_SYNTAX_ERRORS: Final = ("SyntaxError", "IndentationError", "TabError")
_SYNTAX_NOTE: Final = (
    "The block is not valid Python, so no line of it ran. Send the whole block again, corrected."
)
_STATE_NOTES: Final[dict[SessionState, str]] = {
    SessionState.RESTORED: "The session is back to where it was before this cell; nothing the cell assigned "
    "is left.",
    SessionState.LOST: "The session had to start anew: the variables of earlier cells are gone, the context "
    "variables are there again.",
}

NUDGE: Final = (
    "No ```repl block was found in your reply, so nothing ran. Write code in a block that begins with a "
    "line ```repl and ends with a line ```, or finish with your answer."
)
NO_TEXT_NOTE: Final = (
    "Your last reply came without any text: as thoughts alone, as a tool call, or cut off before its first "
    "word. There are no tools here. Reply with text: code in a block that begins with a line ```repl and "
    "ends with a line ```, or your answer. Think less if need be."
)
UNCLOSED_NOTE: Final = (
    "The last code block was not closed with ``` and did not run. Send it again, complete, and shorter if "
    "need be."
)
CUT_NOTE: Final = (
    "Your reply was cut off: it reached the most tokens that one may have. What was to follow is lost. Write "
    "less in one reply."
)
THINKS_ON_NOTE: Final = (
    "Your reply ended within a thought, so what stands in the thought did not run and is no answer. Close "
    "the thought, then write the code or the answer after it."
)
EARLY_FINAL_NOTE: Final = (
    "The FINAL(...) in that reply was not accepted, because it was written before the output of its code "
    "was known. Check the output above, then finish."
)
EMPTY_FINAL_NOTE: Final = "The FINAL() in that reply was not accepted: there was no answer in it."

# Of a query and its answer that a lost session is told of.
_PROMPT_BYTES_MAX: Final = 200
_TEXT_BYTES_MAX: Final = 2_000


def observation_messages(
    cells: Sequence[RanCell], notes: Sequence[str], dialect: Dialect, limits: ObservationLimits
) -> tuple[Message, ...]:
    """Return the user messages that follow a reply: one for all its cells, or one a cell in `final`."""
    if dialect is Dialect.FINAL:
        contents = [
            f"Code executed:\n```python\n{cell.source}\n```\n\nREPL output:\n"
            f"{format_observation(cell, limits)}"
            for cell in cells
        ]
    elif len(cells) == 1:
        contents = ["REPL output:\n" + format_observation(cells[0], limits)]
    else:
        outputs = (
            f"REPL output (block {number}):\n{format_observation(cell, limits)}"
            for number, cell in enumerate(cells, start=1)
        )
        contents = ["\n\n".join(outputs)] if cells else []
    messages = tuple(Message("user", content) for content in contents)
    return with_note(messages, "\n\n".join(notes)) if notes else messages


def with_note(messages: Sequence[Message], note: str) -> tuple[Message, ...]:
    """Return what follows a reply with one more note, at its end."""
    if not messages:
        return (Message("user", note),)
    *before, last = messages
    return (*before, last._replace(content=f"{last.content}\n\n{note}"))


def repeated_note(times: int, left: int) -> str:
    """Return what a model is told that has done the same `times` times; `left` more are let pass."""
    end = f"After {left} more the task ends." if left else "Once more ends the task."
    return (
        f"You have now sent the same {times} times in a row and been shown the same each time. {end} Do "
        "something else, or finish with what you have. If the code does get further each time, have it print "
        "how far."
    )


def format_observation(cell: RanCell, limits: ObservationLimits) -> str:
    """Return the body of one cell's observation: at most `bytes_max` of UTF-8, plus a mark at each cut."""
    parts = [
        _part(shown_output(cell.result)),
        _part(cell.result.stderr),
        _part(error_text(cell.result.error)),
        _part("\n".join(_notes(cell.result))),
        _part(_cut_answers(cell.answers_cut)),
        _part(_answers(cell)),
        _variables(cell.variables, limits.variables_max),
    ]
    parts = [part for part in parts if part]
    separators = 2 * max(0, len(parts) - 1)
    rooms = fair_rooms([utf8_bytes(part) for part in parts], max(0, limits.bytes_max - separators))
    shown = (cut_text(part, room) for part, room in zip(parts, rooms, strict=True))
    return "\n\n".join(shown) or "No output"


def fair_rooms(sizes: Sequence[int], room: int) -> list[int]:
    """Divide `room`: small parts stay whole, what they leave is shared by the large ones.

    So a megabyte of stdout cannot push the traceback and the variables out of the observation.
    """
    rooms = [0] * len(sizes)
    smallest_first = sorted(range(len(sizes)), key=sizes.__getitem__)
    for place, index in enumerate(smallest_first):
        rooms[index] = min(sizes[index], room // (len(sizes) - place))
        room -= rooms[index]
    return rooms


def cut_text(text: str, bytes_max: int) -> str:
    """Return `text`, or its first `bytes_max` bytes of UTF-8, whole characters, and how many are missing."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= bytes_max:
        return text
    end = bytes_max
    while end > 0 and encoded[end] & 0xC0 == 0x80:  # within a character
        end -= 1
    kept = encoded[:end].decode("utf-8", "surrogatepass")
    return f"{kept}... + [{len(text) - len(kept)} chars...]"


def error_text(error: GuestError | None) -> str:
    """Return a guest's traceback if there is one, and the sentence that says what ended the cell."""
    if error is None:
        return ""
    if isinstance(error, GuestException):
        return error.traceback or str(error)
    return f"{error.traceback}{error}"


def shown_output(result: CellResult) -> str:
    """Return stdout and the last expression as an interactive interpreter shows them."""
    if result.result is None:
        return result.stdout
    gap = "\n" if result.stdout and not result.stdout.endswith("\n") else ""
    return f"{result.stdout}{gap}{result.result}"


def _notes(result: CellResult) -> list[str]:
    notes = [_NOTES[result.outcome]] if result.outcome in _NOTES else []
    last_line = error_text(result.error).rstrip().rpartition("\n")[2]
    if last_line.startswith(_SYNTAX_ERRORS) and result.outcome is Outcome.GUEST_EXCEPTION:
        notes.append(_SYNTAX_NOTE)
    if result.session_state in _STATE_NOTES:
        notes.append(_STATE_NOTES[result.session_state])
    return notes


def _cut_answers(count: int) -> str:
    """Return that answers end in the middle: the code that got them may not have noticed."""
    if not count:
        return ""
    which = "An answer to a query of this cell was" if count == 1 else f"{count} answers to queries were"
    return f"{which} cut off: each reached the most tokens that an answer may have. Ask for shorter ones."


def _answers(cell: RanCell) -> str:
    """Return the queries that the session no longer remembers."""
    if cell.result.session_state is SessionState.ALIVE or not cell.answered:
        return ""
    lines = ["Queries that this cell made and that were answered:"]
    lines += [_answer_line(answered) for answered in cell.answered]
    return "\n".join(lines)


def _answer_line(answered: AnsweredQuery) -> str:
    return f"- {answered.prompt!r} -> {answered.text!r}"


def shown_query(prompt: str, text: str) -> tuple[str, str]:
    """Return what an observation would show of a query and its answer: the rest need not be kept."""
    return cut_text(prompt, _PROMPT_BYTES_MAX), cut_text(text, _TEXT_BYTES_MAX)


def _variables(names: tuple[str, ...], variables_max: int) -> str:
    public = [name for name in names if not name.startswith("_")]
    if not public:
        return ""
    more = f" and {len(public) - variables_max} more" if len(public) > variables_max else ""
    return f"REPL variables: {public[:variables_max]}{more}\n"


def _part(text: str) -> str:
    return f"\n{text}" if text else ""
