"""The marks that models set around what they think aloud, and what a text is without the thoughts before it.

For who reads a reply, and for who takes an answer from an endpoint: some send a model's thoughts as its text.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

_BLANK: Final = " \t\r"
# Those that nobody asks a model for, and those that a prompt may want an answer in.
_OWN_TAGS: Final = ("think", "thinking", "seed:think", "antthinking")
_TAGS: Final = (
    *("thought", "thoughts", "reasoning", "reflection", "scratchpad", "analysis", "inner_monologue"),
    *_OWN_TAGS,
)
# Marks that are no tags, with what ends each. A channel ends where the one for the user begins.
_MARKED: Final = {
    "[think]": r"\[/THINK\]",
    "\u25c1think\u25b7": "\u25c1/think\u25b7",
    "<|begin_of_thought|>": r"<\|end_of_thought\|>",
}
_CHANNELS: Final = dict.fromkeys(
    ("<|channel|>analysis", "<|channel|>commentary"), r"<\|channel\|>final\b[^<]*<\|message\|>|<\|call\|>"
)
_MARKS: Final = _MARKED | _CHANNELS
# Groups: `name`, of a tag, which `ends` says is an end; `Ends`, an end that is no tag; `mark`, a beginning.
THOUGHT: Final = re.compile(
    rf"<(?P<ends>/?)(?P<name>{'|'.join(_TAGS)})(?:\s[^<>]*)?>|(?P<Ends>{'|'.join(_MARKED.values())})"
    rf"|(?P<mark>{'|'.join(map(re.escape, _MARKS))})",
    re.IGNORECASE,
)
# What ends each thought, by its name or its mark in lower case.
THOUGHT_ENDS: Final = {
    **{name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _TAGS},
    **{mark: re.compile(ends, re.IGNORECASE) for mark, ends in _MARKS.items()},
}
_OPENED: Final = re.compile(rf"\s*+(?!</)(?:{THOUGHT.pattern})", re.IGNORECASE)
_OWN: Final = frozenset((*_OWN_TAGS, *_MARKS))


def without_thoughts_before(answer: str) -> str:
    """Return a text without the thoughts that stand before it. One that is nothing else stays as it is."""
    at = _end_of_thoughts(answer, THOUGHT_ENDS)
    return answer[at:].lstrip() or answer if at else answer


def is_thought_alone(answer: str) -> bool:
    """Whether a text is thoughts and nothing else, between marks that no prompt asks a model for."""
    if answer.rstrip()[-1:] not in (">", "]", "\u25b7"):  # as each of them ends
        return False
    at = _end_of_thoughts(answer, _OWN)
    return at > 0 and not answer[at:].strip()


def _end_of_thoughts(answer: str, names: Container[str]) -> int:
    """Return where the thoughts of these names end that a text begins with; 0: with none."""
    at = 0
    first = THOUGHT.search(answer)
    if first and (first["Ends"] or (first["ends"] and first["name"].lower() in names)):
        behind = answer[first.end() :].lstrip(_BLANK)[:1]
        at = first.end() if behind in ("", "\n") else 0  # a chat template wrote its beginning
    while (found := _OPENED.match(answer, at)) and (begun := (found["mark"] or found["name"] or "").lower()):
        if begun not in names or (ended := THOUGHT_ENDS[begun].search(answer, found.end())) is None:
            break
        at = ended.end()
    return at
