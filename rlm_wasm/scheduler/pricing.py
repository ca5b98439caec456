"""The price of a query, at most and in the end, in integer micro-dollars."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rlm_wasm.limits import ModelPrice
from rlm_wasm.scheduler.ledger import Charge
from rlm_wasm.scheduler.messages import Message, Usage

_MTOK: Final = 1_000_000


def utf8_bytes(text: str) -> int:
    """Return the length of `text` in UTF-8; lone surrogates count, they do not raise."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def input_tokens_bound(size: int, overhead_tokens: int) -> int:
    """Return a number of tokens that messages of so many bytes cannot exceed.

    A tokenizer that works on bytes never makes more tokens than there are bytes. Role names and
    `overhead_tokens` stand for what the provider's chat template adds.
    """
    return overhead_tokens + size


def prompt_bytes(messages: Iterable[Message]) -> int:
    """Return the bytes of messages, their roles' names included."""
    return sum([utf8_bytes(message.role) + utf8_bytes(message.content) for message in messages])


def content_bytes(messages: Iterable[Message], size: int) -> int:
    """Return the bytes of messages without their roles' names, where `size` is what prompt_bytes gave."""
    return size - sum([len(message.role) for message in messages])


def usage_or_estimate(
    usage: tuple[int | None, int | None],
    messages: Iterable[Message],
    text: str,
    *,
    thought_bytes: int = 0,
    output_tokens_max: int,
) -> Usage:
    """Return the usage that a provider stated of an answer, and for what it did not state an estimate.

    A byte counts as a token, of the messages and of the text with its thoughts: more than it was, as a rule
    three or four times, and never less of what can be seen. The output is no more than was allowed.
    """
    given, made = usage
    input_tokens = prompt_bytes(messages) if given is None else given
    output_tokens = min(utf8_bytes(text) + thought_bytes, output_tokens_max) if made is None else made
    return Usage(input_tokens, output_tokens, given is None, made is None)


def cost_microdollars(price: ModelPrice, input_tokens: int, output_tokens: int) -> int:
    """Return the price of a call, rounded up: a budget may be used up early, never late."""
    exact = (
        input_tokens * price.input_microdollars_per_mtok + output_tokens * price.output_microdollars_per_mtok
    )
    return -(-exact // _MTOK)


def affordable_output(price: ModelPrice, input_tokens: int, microdollars: int) -> int | None:
    """Return how many tokens of output are paid for by what is left after the input; None: any number."""
    if not price.output_microdollars_per_mtok:
        return None
    left = microdollars * _MTOK - input_tokens * price.input_microdollars_per_mtok
    return max(0, left // price.output_microdollars_per_mtok)


def reservation_charge(price: ModelPrice, input_tokens: int, output_tokens_max: int) -> Charge:
    """Return what one attempt may cost at most."""
    cost = cost_microdollars(price, input_tokens, output_tokens_max)
    return Charge(1, 0, input_tokens, output_tokens_max, cost)


def usage_charge(price: ModelPrice, usage: Usage | None) -> Charge | None:
    """Return what an attempt did cost, or None if the provider did not say, or said nonsense."""
    if usage is None or not usage.plausible:
        return None
    return reservation_charge(price, usage.input_tokens, usage.output_tokens)
