"""Facts that every format states of an answer, read alike: its end, its tokens, its text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rlm_wasm.providers.json_body import member, printable
from rlm_wasm.providers.refusals import Trouble
from rlm_wasm.scheduler.messages import TOKENS_PLAUSIBLE_MAX, FinishReason
from rlm_wasm.scheduler.pricing import utf8_bytes
from rlm_wasm.thoughts import is_thought_alone

# How endpoints say that a model was done, or that a cap cut it off, in lower case.
_FINISHES: Final = {
    **dict.fromkeys(
        ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "completed"), FinishReason.STOP
    ),
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"),
        FinishReason.LENGTH,
    ),
}
# A retry would ask for the same words to be refused again.
_LASTING_FINISHES: Final = ("content_filter", "safety", "recitation", "refusal")


def finish_in(stated: object) -> FinishReason | None:
    """Return what a word of an endpoint says of a text's end, if it is one that is known."""
    return _FINISHES.get(stated.lower()) if isinstance(stated, str) else None


def tokens_in(value: object) -> int | None:
    """Return a count of tokens; None for what is no count: a bool, a fraction, a text, an absurd one."""
    return value if type(value) is int and 0 <= value <= TOKENS_PLAUSIBLE_MAX else None


def text_of(content: object) -> str:
    """Return the text of a message's content, a string or parts; thoughts, images and calls are none."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return ""
    return "".join(_text_of_part(part) for part in content)


def _text_of_part(part: object) -> str:
    if isinstance(part, str):
        return part
    if member(part, "type") not in (None, "text", "output_text"):
        return ""
    text = member(part, "text")
    if isinstance(text, dict):
        text = member(text, "value")
    return text if isinstance(text, str) else ""


def bytes_of(values: Iterable[object]) -> int:
    """Return how many bytes the texts among some values take."""
    return sum(utf8_bytes(value) for value in values if isinstance(value, str))


def is_silent(text: str, finish: object) -> bool:
    """Whether a text says nothing: it is empty, or thoughts alone that no cap cut off."""
    return not text.strip() or (finish_in(finish) is not FinishReason.LENGTH and is_thought_alone(text))


def silence(
    finish: object, *, refused: object = None, called: bool, thought: bool, word: str = "finish_reason"
) -> Trouble:
    """Return why there is no text: the model refused, was cut off, called a tool or only thought.

    `finish` is what the endpoint says of its end, by the name `word`.
    """
    if isinstance(refused, str) and refused:
        return Trouble(
            f"sent no text; the model refused: {printable(refused)}", retryable=False, no_text=True
        )
    if finish_in(finish) is FinishReason.LENGTH:
        why = "; the token cap was used up before any (raise query.output_tokens_max)"
    elif called:
        why = " but a call of a tool, and has none"
    elif thought:
        why = " but its reasoning"
    else:
        why = f" ({word} {printable(finish)})" if isinstance(finish, str) else ""
    return Trouble(f"sent no text{why}", retryable=finish not in _LASTING_FINISHES, no_text=True)


def without_surrogates(text: str) -> str:
    """Return a text that can be encoded: JSON can spell half a surrogate pair."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
