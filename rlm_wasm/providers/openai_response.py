"""The gate for what an OpenAI-compatible endpoint answers: bytes in, typed facts or a reason out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rlm_wasm.providers.base import Completion
from rlm_wasm.providers.json_body import NOT_JSON, TOO_MANY_VALUES, first, member, printable, read_json
from rlm_wasm.providers.openai_refusal import Trouble, error_within
from rlm_wasm.scheduler.messages import TOKENS_PLAUSIBLE_MAX, FinishReason
from rlm_wasm.scheduler.pricing import utf8_bytes

# What models send beside their text, and is not part of it.
_THOUGHTS: Final = ("reasoning_content", "reasoning", "thinking")
# How endpoints say that a model was done, or that a cap cut it off, in lower case.
_FINISHES: Final = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence"), FinishReason.STOP),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), FinishReason.LENGTH),
}
_CALLS: Final = ("tool_calls", "function_call")
BESIDE_THE_TEXT: Final = (*_THOUGHTS, *_CALLS)
# A retry would ask for the same words to be refused again.
_LASTING_FINISHES: Final = ("content_filter", "safety", "recitation")


def decode_completion(body: bytes, headers: Mapping[str, str]) -> Completion | Trouble:
    """Return the answer in the body of a 200, or what it is instead. Raises nothing."""
    if not body.strip():
        return Trouble("sent nothing", retryable=True)
    document = read_json(body)
    if document is TOO_MANY_VALUES:
        return Trouble("sent more values than an answer has", retryable=False)
    if document is NOT_JSON:
        return Trouble("sent something that is not JSON", retryable=False)
    return completion_of(document, headers)


def completion_of(
    document: object, headers: Mapping[str, str], *, thought_bytes: int | None = None
) -> Completion | Trouble:
    """Return the answer that a document is, or what it is instead.

    `thought_bytes` is how long its thoughts were, where they are no longer in it.
    """
    error = error_within(headers, document)
    if error is not None:
        return error
    if not _is_chat_completion(document):
        return Trouble("sent JSON that is not a chat completion", retryable=False)
    choice = first(member(document, "choices"))
    message = member(choice, "message")
    text = text_of(member(message, "content"))
    usage = member(document, "usage")
    given, made = _tokens(member(usage, "prompt_tokens")), _tokens(member(usage, "completion_tokens"))
    if not text.strip():
        return _without_text(choice, message)._replace(no_text=True, input_tokens=given, output_tokens=made)
    thoughts = thoughts_bytes(message) if thought_bytes is None else thought_bytes
    return Completion(_without_surrogates(text), given, made, _finish(choice), thoughts)


def _is_chat_completion(document: object) -> bool:
    """Whether a document has the form, be there a choice in it or not, and in that a message or none."""
    if not isinstance(document, dict) or "choices" not in document:
        return False
    choices = document["choices"]
    if not choices:
        return choices is None or isinstance(choices, list)
    choice = first(choices)
    return isinstance(choice, dict) and isinstance(choice.get("message", 0), dict | None)


def text_of(content: object) -> str:
    """Return the text of a message's content, a string or parts; thoughts, images and calls are none."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return ""
    return "".join(_text_of_part(part) for part in content)


def thoughts_bytes(message: object) -> int:
    """Return how much a message, or a piece of one, has of thoughts beside its text."""
    thoughts = (member(message, name) for name in _THOUGHTS)
    return sum(utf8_bytes(thought) for thought in thoughts if isinstance(thought, str))


def _text_of_part(part: object) -> str:
    if isinstance(part, str):
        return part
    if member(part, "type") not in (None, "text", "output_text"):
        return ""
    text = member(part, "text")
    if isinstance(text, dict):
        text = member(text, "value")
    return text if isinstance(text, str) else ""


def _without_text(choice: object, message: object) -> Trouble:
    if isinstance(refused := member(message, "refusal"), str) and refused:
        return Trouble(f"sent no text; the model refused: {printable(refused)}", retryable=False)
    finish = member(choice, "finish_reason")
    if _finish(choice) is FinishReason.LENGTH:
        why = "; the token cap was used up before any (raise query.output_tokens_max)"
    elif any(member(message, name) for name in _CALLS):
        why = " but a call of a tool, and has none"
    elif any(member(message, name) for name in _THOUGHTS):
        why = " but its reasoning"
    else:
        why = f" (finish_reason {printable(finish)})" if isinstance(finish, str) else ""
    return Trouble(f"sent no text{why}", retryable=finish not in _LASTING_FINISHES)


def _finish(choice: object) -> FinishReason | None:
    stated = member(choice, "finish_reason")
    return _FINISHES.get(stated.lower()) if isinstance(stated, str) else None


def _tokens(value: object) -> int | None:
    # Not a bool, nor a float of a whole value: what is no count is not believed.
    return value if type(value) is int and 0 <= value <= TOKENS_PLAUSIBLE_MAX else None


def _without_surrogates(text: str) -> str:
    # JSON can spell half a surrogate pair; nothing after this point could encode it.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
