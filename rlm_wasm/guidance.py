"""Guidance: what an operator or an application says beside the system prompt, and the examples it shows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from rlm_wasm.errors import UsageError
from rlm_wasm.limits import GuidanceLimits

# What a terminal or a log would stumble over, and what has no UTF-8.
_NO_TEXT: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Example:
    """A question about other material, and a reply to it as a model should write one."""

    question: str
    reply: str


@dataclass(frozen=True, slots=True)
class Guidance:
    """Own instructions, empty: none, and examples, in their order."""

    instructions: str = ""
    examples: tuple[Example, ...] = ()

    @classmethod
    def given(cls, instructions: object, examples: object) -> Self:
        """Return what a caller gives, checked. Raises UsageError for what is no text, or says nothing."""
        if instructions is not None:
            _check_text("instructions", instructions)
        if isinstance(examples, str | Example) or not isinstance(examples, Iterable):
            kind = type(examples).__name__
            raise UsageError(f"examples are several, such as a list of them, not a {kind}")
        shown = tuple(examples)
        for number, example in enumerate(shown, start=1):
            if not isinstance(example, Example):
                raise UsageError(f"example {number} is an Example, not a {type(example).__name__}")
            _check_text(f"the question of example {number}", example.question)
            _check_text(f"the reply of example {number}", example.reply)
        return cls(str(instructions or ""), shown)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.instructions or self.examples)

    def followed_by(self, other: Guidance) -> Guidance:
        """Return both: a policy's stands before a question's."""
        parts = filter(None, (self.instructions, other.instructions))
        return Guidance("\n\n".join(parts), self.examples + other.examples)

    @property
    def instructions_bytes(self) -> int:
        """How long the instructions are, as UTF-8."""
        return _size(self.instructions)

    @property
    def examples_bytes(self) -> int:
        """How long all questions and replies are together, as UTF-8."""
        return sum(_size(example.question) + _size(example.reply) for example in self.examples)

    def excess(self, limits: GuidanceLimits) -> tuple[str, int, int] | None:
        """Return the key of the first limit that this is beyond, how much there is, and how much may be."""
        sizes = {
            "instructions_bytes_max": self.instructions_bytes,
            "examples_max": len(self.examples),
            "examples_bytes_max": self.examples_bytes,
        }
        beyond = ((key, size, getattr(limits, key)) for key, size in sizes.items())
        return next(((key, size, most) for key, size, most in beyond if size > most), None)

    def check(self, limits: GuidanceLimits) -> None:
        """Raise UsageError where this is more than a policy allows; the policy's own counts too."""
        if (found := self.excess(limits)) is not None:
            raise UsageError(beyond(*found), hint=f"shorten it, or raise `guidance.{found[0]}` in the policy")


NO_GUIDANCE: Final = Guidance()


def beyond(key: str, size: int, most: int) -> str:
    """Return the words for what is beyond a limit."""
    what = "the examples" if key.startswith("examples") else "the instructions"
    amount = f"are {size}" if key == "examples_max" else f"take {size} bytes"
    return f"{what} {amount}, {most} allowed: guidance.{key}"


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise UsageError(f"{what}: a str, not a {type(text).__name__}")
    if not text.strip():
        raise UsageError(f"{what}: there is nothing in it")
    if found := _NO_TEXT.search(text):
        raise UsageError(f"{what}: character {found.start()} is no text ({found[0]!a})")


def _size(text: str) -> int:
    return len(text.encode("utf-8"))
