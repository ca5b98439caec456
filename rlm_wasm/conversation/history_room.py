"""The room that a history has in its model's window, and the history made to fit it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rlm_wasm.conversation.compaction import Compaction, without_long_outputs, without_old_turns
from rlm_wasm.errors import WindowExceeded
from rlm_wasm.scheduler.messages import Message
from rlm_wasm.scheduler.pricing import prompt_bytes
from rlm_wasm.scheduler.window import ModelWindow

# How often in a row an endpoint may refuse a history that was made shorter each time.
REFUSALS_MAX: Final = 3
# A question for a summary must leave room for the answer.
_SUMMARY_PERCENT: Final = 85


class HistoryRoom:
    """Says when a history is too long, and makes it shorter. With a `percent` of 0 it does neither."""

    def __init__(self, window_tokens: int | None, percent: int, summaries_max: int) -> None:
        self._window: Final = ModelWindow(window_tokens)
        self._percent: Final = percent
        self._summaries_left = summaries_max
        self._refusals = 0
        self._sent = 0  # bytes of the messages that were sent last

    def sends(self, messages: Sequence[Message]) -> None:
        """Take what goes to the model now."""
        self._sent = prompt_bytes(messages)

    def answered(self, input_tokens: int | None, window_tokens: int | None) -> None:
        """Take what is known of the model after an answer to what was sent last."""
        self._refusals = 0
        self._window.tokens = window_tokens or self._window.tokens
        if input_tokens is not None:
            self._window.counted(self._sent, input_tokens)

    def refused(self, error: WindowExceeded) -> bool:
        """Take that what was sent last is too long, and say whether a shorter history may be tried."""
        self._refusals += 1
        self._window.refused(error, self._sent)
        if self._window.tokens is None:
            self._window.tokens = self._window.estimate(self._sent)  # it holds less than that
        return bool(self._percent) and self._refusals <= REFUSALS_MAX

    def is_full(self, history: Sequence[Message]) -> bool:
        """Whether a history is to be made shorter before it is sent."""
        return self._fills(history, self._percent)

    def may_summarise(self, history: Sequence[Message]) -> bool:
        """Take one of the summaries, if there is one, something to leave out, and room for the question."""
        turns = sum(message.role == "assistant" for message in history)
        if turns < 2 or not self._summaries_left or self._fills(history, _SUMMARY_PERCENT):
            return False
        self._summaries_left -= 1
        return True

    def shortened(self, history: Sequence[Message], unread: int) -> tuple[list[Message], bool]:
        """Return the history without long outputs of earlier turns, and whether that is enough."""
        most = self._bytes_max()
        shorter = without_long_outputs(history, most, unread)
        return shorter, prompt_bytes(shorter) <= most

    def without_turns(
        self, history: Sequence[Message], unread: int, summary: str | None = None
    ) -> list[Message]:
        """Return the history without its earlier turns, as far as there has to be room."""
        return without_old_turns(history, self._bytes_max(), unread, summary)

    def compaction(
        self, before: Sequence[Message], after: Sequence[Message], *, summarised: bool
    ) -> Compaction | None:
        """Return what a history lost, or None: it is no shorter."""
        sizes = prompt_bytes(before), prompt_bytes(after)
        if sizes[1] >= sizes[0]:
            return None
        tokens, refused = self._window.tokens, self._refusals > 0
        return Compaction(tokens, refused, summarised, len(before), len(after), *sizes)

    def _bytes_max(self) -> int:
        """Return how long a history is to be that was too long: short enough to grow again for some turns."""
        most = self._window.size_of((self._window.tokens or 0) * self._percent // 200)
        # What was refused must become shorter, whatever we believe of its length.
        return min(most, self._sent * 3 // 4) if self._refusals else most

    def _fills(self, history: Sequence[Message], percent: int) -> bool:
        tokens = self._window.tokens
        if tokens is None or not self._percent:
            return False
        return self._window.estimate(prompt_bytes(history)) * 100 > tokens * percent
