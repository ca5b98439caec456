"""A message to a model, and the usage that its provider reports."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, NamedTuple, get_args

Role = Literal["system", "user", "assistant"]

# No call has a billion tokens. A provider that says so is not believed, and no number overflows.
TOKENS_PLAUSIBLE_MAX: Final = 1_000_000_000


class Message(NamedTuple):
    """One message of a conversation with a model."""

    role: Role
    content: str


# What came of asking a cache for an answer: there, not there, or the cache is of no use.
CacheUse = Literal["hit", "miss", "unusable"]
CACHE_USES: Final[tuple[CacheUse, ...]] = get_args(CacheUse)


def cache_use_of(stated: object) -> CacheUse | None:
    """Return what a provider or a log says of a cache, if it is a word that is known."""
    return next((use for use in CACHE_USES if use == stated), None)


class FinishReason(StrEnum):
    """Why a model's text ends where it does. None in its place: the provider said nothing that is known."""

    STOP = "stop"  # the model had said all that it would
    LENGTH = "length"  # a cap on tokens cut it off


def finish_of(stated: object) -> FinishReason | None:
    """Return what a provider, a script or a log says of a text's end, if it is a word that is known."""
    return FinishReason(stated) if isinstance(stated, str) and stated in _FINISHES else None


_FINISHES: Final = frozenset(FinishReason)


class Usage(NamedTuple):
    """Model tokens of one call as the provider reported them: outside input, so not yet believed.

    A number of which it said nothing believable may be our own estimate, and is marked as one.
    """

    input_tokens: int
    output_tokens: int
    input_estimated: bool = False
    output_estimated: bool = False

    @property
    def plausible(self) -> bool:
        """Whether the numbers can be charged; a call with implausible usage costs its whole reservation."""
        return (
            0 <= self.input_tokens <= TOKENS_PLAUSIBLE_MAX and 0 <= self.output_tokens <= TOKENS_PLAUSIBLE_MAX
        )
