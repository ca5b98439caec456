"""What is said to a model, and what it says it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Role = Literal["system", "user", "assistant"]

# No call has a billion tokens. A provider that says so is not believed, and no number overflows.
TOKENS_PLAUSIBLE_MAX: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation with a model."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Model tokens of one call as the provider reported them: outside input, so not yet believed."""

    input_tokens: int
    output_tokens: int

    @property
    def plausible(self) -> bool:
        """Whether the numbers can be charged; a call with implausible usage costs its whole reservation."""
        return all(0 <= n <= TOKENS_PLAUSIBLE_MAX for n in (self.input_tokens, self.output_tokens))
