"""Models that answer, refuse, hang, lie and break, as a seed decides."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

import anyio

from rlm_wasm.errors import ProviderError
from rlm_wasm.providers.base import Completion, ProviderFailure, Query
from rlm_wasm.scheduler.messages import FinishReason, Message
from tests.simulation.network import openai_over
from tests.simulation.programs import root_reply

_FATES: Final = (
    "unknown_usage",
    "negative_usage",
    "usage_above_the_reservation",
    "usage_of_another_type",
    *("too_many_requests",) * 3,
    "refuses",
    *("fails_after_work",) * 3,
    "hangs",
    "hangs_and_knows_no_deadline",
    "foreign_exception",
    "no_text",
    "half_a_character",
    *("answers_after_its_cancellation",) * 2,
    "hangs_up_slowly",
    "fails_after_its_cancellation",
    *("over_the_wire",) * 4,
)
_FOREIGN: Final = (RuntimeError("x"), ValueError("x"), KeyError("x"), OSError(5, "x"), RecursionError("x"))
_LATENCIES_MS: Final = (0, 0, 0, 1, 1, 1, 5, 5, 20, 20, 40, 100, 300, 900)


class SimulatedProvider:
    """Every model of a world. `seen` is called with each query before anything else, `left` at its end."""

    def __init__(
        self,
        random: Random,
        seen: Callable[[Query], None],
        left: Callable[[Query], None],
        fails: Callable[[str], bool],
        *,
        faults: float,
    ) -> None:
        self._random = random
        self._seen = seen
        self._left = left
        self._fails = fails
        self._faults = faults
        self._wire = openai_over(random, lambda prompt: f"re {prompt}|over the wire")
        self.calls = 0
        self.open = 0

    async def complete(self, query: Query) -> Completion:
        """Meet a fate."""
        self.calls += 1
        self.open += 1
        try:
            self._seen(query)
            return await self._complete(query)
        finally:
            self.open -= 1
            self._left(query)

    async def aclose(self) -> None:
        """Close the client."""
        await self._wire.aclose()

    async def _complete(self, query: Query) -> Completion:
        random = self._random
        root = is_root(query.messages)
        # A root that fails ends its run: seldom, or little would happen.
        faults = self._faults / 5 if root else self._faults
        fate = random.choice(_FATES) if random.random() < faults else "answers"
        if self._fails("provider"):
            fate = random.choice(("refuses", "fails_after_work", "hangs", "foreign_exception"))
        text = root_reply(random) if root else f"re {query.messages[-1].content}|{random.randrange(100)}"
        if fate == "over_the_wire":
            # A root's answer would be one to its last message, which is no program, and is as good.
            return await self._wire.complete(query)
        wait_s = random.choice(_LATENCIES_MS) / 1000
        try:
            await self._wait(fate, wait_s, query)
        except anyio.get_cancelled_exc_class():
            if fate in ("answers_after_its_cancellation", "hangs_up_slowly", "fails_after_its_cancellation"):
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(8.0 if fate == "hangs_up_slowly" else wait_s)
                if fate == "fails_after_its_cancellation":
                    raise _failure(random, retryable=True) from None
                return Completion(text, 3, 3)
            raise
        return self._outcome(fate, text, query)

    async def _wait(self, fate: str, wait_s: float, query: Query) -> None:
        match fate:
            case "hangs":
                await anyio.sleep(query.timeout_ms / 1000)
                raise ProviderFailure(ProviderError("no answer in time"), retryable=True, sent=True)
            case "hangs_and_knows_no_deadline" | "answers_after_its_cancellation" | "hangs_up_slowly":
                await anyio.sleep_forever()
            case "fails_after_its_cancellation":
                await anyio.sleep_forever()
            case _:
                await anyio.sleep(wait_s)

    def _outcome(self, fate: str, text: str, query: Query) -> Completion:
        random = self._random
        known: tuple[Any, Any] = (random.randrange(40), random.randrange(query.output_tokens_max + 1))
        match fate:
            case "unknown_usage":
                return Completion(text, None, random.choice((None, 5)))
            case "negative_usage":
                return Completion(text, -5, 5)
            case "usage_above_the_reservation":
                return Completion(text, random.choice((5_000, 10**5, 10**12)), query.output_tokens_max * 3)
            case "usage_of_another_type":
                odd: Any = random.choice(("7", 1.5, True, [], float("nan")))
                return Completion(text, odd, 3)
            case "too_many_requests":
                after = random.choice((None, 0, 5, 700, 10**7, -4))
                raise ProviderFailure(
                    ProviderError("too many"), retryable=True, sent=False, retry_after_ms=after
                )
            case "refuses":
                raise ProviderFailure(ProviderError("no"), retryable=False, sent=False)
            case "fails_after_work":
                raise _failure(random, retryable=random.random() < 0.8)
            case "foreign_exception":
                raise random.choice(_FOREIGN)
            case "no_text":
                wrong: Any = random.choice((None, b"text", 5))
                return Completion(wrong, 3, 3)
            case "half_a_character":
                return Completion(text + "\ud800", *known)
            case _:
                # Now and then its cap cuts an answer off.
                cut = FinishReason.LENGTH if known[1] % 5 == 4 else None
                return Completion(text, *known, cut)


def _failure(random: Random, *, retryable: bool) -> ProviderFailure:
    return ProviderFailure(ProviderError("broke"), retryable=retryable, sent=random.random() < 0.7)


def is_root(messages: tuple[Message, ...]) -> bool:
    """Return whether the loop asks, and not a guest."""
    return messages[0].role == "system"
