"""A model's window: what its messages and its answer may take together, as far as anybody has said so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rlm_wasm.errors import WindowExceeded

# Until a provider has counted some of a model's messages: fewer bytes a token than text has as a rule.
_BYTES_FIRST: Final = 3
# An answer that may be no longer than this is not worth a query.
ANSWER_TOKENS_LEAST: Final = 64
# What an endpoint puts around messages; and of what they are estimated at, a sixteenth may be wrong.
_TEMPLATE: Final = 32
# A refusal that gives no numbers is met with so small a part of the cap.
_PART: Final = 4


@dataclass(slots=True)
class ModelWindow:
    """What one model takes. `tokens` and `answer_tokens_max` are None where nobody has said so.

    How many tokens some text is only its provider knows: what it counted last is the measure for the next.
    """

    tokens: int | None = None
    answer_tokens_max: int | None = None
    _bytes: int = _BYTES_FIRST
    _counted: int = 1

    def estimate(self, size: int) -> int:
        """Return about how many tokens so many bytes are."""
        return -(-size * self._counted // self._bytes)

    def size_of(self, tokens: int) -> int:
        """Return about how many bytes so many tokens are."""
        return tokens * self._bytes // self._counted

    def counted(self, size: int, tokens: int) -> None:
        """Take what a provider counted of messages. What no tokenizer could make of them is not believed."""
        if 0 < tokens <= size:
            self._bytes, self._counted = size, tokens

    def refused(self, error: WindowExceeded, size: int) -> None:
        """Take what an endpoint said of messages of so many bytes that were too much."""
        self.tokens = error.window_tokens or self.tokens
        self.answer_tokens_max = error.answer_tokens_max or self.answer_tokens_max
        if error.prompt_tokens is not None:
            self.counted(size, error.prompt_tokens)

    def cap(self, size: int, output_tokens_max: int) -> int:
        """Return the cap to send with messages of so many bytes: what fits, and never more than is wanted.

        Where next to nothing seems to fit, the endpoint is asked all the same: it counts, we guess.
        """
        most = output_tokens_max
        if self.answer_tokens_max is not None:
            most = min(most, self.answer_tokens_max)
        if self.tokens is not None:
            asked = self.estimate(size)
            most = min(most, max(self.tokens - asked - asked // 16 - _TEMPLATE, ANSWER_TOKENS_LEAST))
        return max(1, most)

    def smaller_cap(self, error: WindowExceeded, size: int, cap: int) -> int | None:
        """Return the cap with which a query that was refused may pass, or None: its messages are too long."""
        least = min(cap - 1, ANSWER_TOKENS_LEAST)
        if error.answer_tokens_max is not None:
            found = error.answer_tokens_max
        elif self.tokens is None:
            # Which of the two was too long nobody said.
            found = cap // _PART if cap > self.estimate(size) else 0
        elif error.prompt_tokens is not None:
            found = self.tokens - error.prompt_tokens
        else:
            found = min(self.tokens - self.estimate(size), cap // 2)
        return found if max(1, least) <= found < cap else None
