"""A history made shorter for a model whose window it nears: what is old goes first, both ends of it stay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

from rlm_wasm.scheduler.messages import Message
from rlm_wasm.scheduler.pricing import prompt_bytes, utf8_bytes

# The rules and the question, with which every history begins.
HEAD: Final = 2
# How many bytes of each message stay, round by round, until the history is short enough.
_ROUNDS: Final = (4_000, 1_000, 250)
_LAST_ROUNDS: Final = (4_000, 1_000, 250, 100)
# As an observation has it where it was cut.
_MARK_FORM: Final = "... + [{} chars...] "
_MARK: Final = re.compile(r"\.\.\. \+ \[(\d{1,12}) chars\.\.\.\] ", re.ASCII)
_MARK_BYTES_MAX: Final = 32
# Of what stays of a message, what its beginning gets; the rest is its end's.
_BEGINNING: Final = (2, 3)

LEFT_OUT: Final = (
    "[Earlier turns are left out here, because there is no room for them. What they assigned is still in the "
    "session.]"
)
SUMMARY: Final = (
    "[Earlier turns are left out here. What they assigned is still in the session. What you wrote down of "
    "them:]\n"
)
SUMMARY_BYTES_MAX: Final = 6_000
SUMMARY_PROMPT: Final = (
    "There is no more room for this whole conversation: its earlier turns will be left out. Write down now "
    "what of them matters for the answer: what was found, which variables hold what, what is still to be "
    "done. Plain text of at most 400 words and no code. It will stand in their place."
)


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a history lost, as its event tells it."""

    window_tokens: int | None
    refused: bool
    summarised: bool
    messages_before: int
    messages_after: int
    bytes_before: int
    bytes_after: int

    def followed_by(self, later: Compaction) -> Compaction:
        """Return what both together are."""
        return replace(
            later,
            refused=self.refused or later.refused,
            summarised=self.summarised or later.summarised,
            messages_before=self.messages_before,
            bytes_before=self.bytes_before,
        )

    def data(self) -> dict[str, object]:
        """Return the fields of the event."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def without_long_outputs(history: Sequence[Message], bytes_max: int, unread: int) -> list[Message]:
    """Return the history with the middle of old outputs left out, the oldest first, until it is short enough.

    `unread` of its last messages the model has not seen yet: they stay.
    """
    return _cut(history, bytes_max, range(HEAD, len(history) - unread), "user", _ROUNDS)


def without_old_turns(
    history: Sequence[Message], bytes_max: int, unread: int, summary: str | None = None
) -> list[Message]:
    """Return the history with its oldest turns left out, until it is short enough, and then the last one cut.

    With a `summary`, that stands for all turns but the last.
    """
    begins = [number for number, message in enumerate(history) if message.role == "assistant"]
    shorter = list(history)
    if len(begins) > 1:
        first, last_turn = begins[0], begins[-1:]
        if summary is not None:  # it knows what stood there before
            head, starts = [*history[:HEAD], Message("user", SUMMARY + summary)], last_turn
        else:
            note = Message("user", LEFT_OUT)
            head = list(history[:first]) if note in history[:first] else [*history[:first], note]
            starts = begins[1:]
        for start in starts:
            shorter = [*head, *history[start:]]
            if prompt_bytes(shorter) <= bytes_max:
                return shorter
    last = range(len(shorter) - unread, len(shorter))
    shorter = _cut(shorter, bytes_max, last, "user", _LAST_ROUNDS)
    return _cut(shorter, bytes_max, range(HEAD, len(shorter)), "assistant", _LAST_ROUNDS)


def _cut(
    history: Sequence[Message], bytes_max: int, where: range, role: str, rounds: Sequence[int]
) -> list[Message]:
    shorter = list(history)
    size = prompt_bytes(shorter)
    for most in rounds:
        for number in where:
            if size <= bytes_max:
                return shorter
            message = history[number]
            if message.role == role and not message.content.startswith(SUMMARY):
                content = without_middle(message.content, most)
                size -= utf8_bytes(shorter[number].content) - utf8_bytes(content)
                shorter[number] = Message(message.role, content)
    return shorter


def without_middle(text: str, bytes_max: int) -> str:
    """Return `text`, or about `bytes_max` bytes of it, of both ends, and how many characters are missing."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= bytes_max + _MARK_BYTES_MAX:
        return text
    beginning = bytes_max * _BEGINNING[0] // _BEGINNING[1]
    head = _whole(data[:beginning])
    tail = _whole(data[len(data) - (bytes_max - beginning) :])
    missing = len(text) - len(head) - len(tail)
    # What is cut again had lost more than its middle has now.
    for mark in _MARK.finditer(text, len(head), len(text) - len(tail)):
        missing += int(mark[1]) - len(mark[0])
    return f"{head}{_MARK_FORM.format(missing)}{tail}"


def _whole(part: bytes) -> str:
    """Return the whole characters of a part of a text."""
    return part.decode("utf-8", "ignore")
