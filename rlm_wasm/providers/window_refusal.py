"""The meaning of an endpoint's words when a request is too long for its model: how long it may be, and is.

Every vendor words it in its own way, and what they agree on is a number beside a few words. What is found is
outside input: a number here decides how much is sent the next time, and nothing else.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from rlm_wasm.providers.json_body import member

# Their words come first; what follows may be an echo of the request.
_WORDS_CHARS_MAX: Final = 2_000
_TOKENS_MAX: Final = 100_000_000
_N: Final = r"(\d[\d,_]{0,14})"

_CODES: Final = frozenset({
    "context_length_exceeded",
    "context_window_exceeded",
    "exceed_context_size_error",
    "max_tokens_exceeded",
    "model_max_prompt_tokens_exceeded",
    "string_above_max_length",
})  # fmt: skip
_TOO_LONG: Final = re.compile(
    r"context (?:length|window|size|limit)|max(?:imum)? (?:model|prompt|sequence) length|max_model_len"
    r"|(?:prompt|input|request) is too long|input (?:tokens|length)\b.{0,40}\bexceed"
    r"|input token count .{0,40}exceeds|reduce the length of|must have less than \d+ tokens"
    r"|tokens \+ `?max_new_tokens|too many (?:input )?tokens|maximum input length",
    re.IGNORECASE | re.DOTALL,
)
_ANSWER_TOO_LONG: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"supports at most {_N} (?:completion|output) tokens",
        rf"max_(?:completion_|output_)?tokens`?: \d+ > {_N}",
        rf"valid range of max_(?:completion_|output_)?tokens`? is \[1, ?{_N}\]",
        rf"max_(?:completion_|output_)?tokens`? must be (?:less than or equal to|at most|<=) `?{_N}",
        rf"max_?output_?tokens.{{0,60}}supported range is from 1 (?:\(inclusive\) )?to {_N} \(exclusive\)",
    )
)
_WINDOW: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"tokens > {_N} maximum",
        rf"context limit: \d+ \+ \d+ > {_N}",
        rf"maximum context length(?: is| of|:) (?:only )?{_N}",
        rf"context length (?:is only|is|of only|of) {_N}",
        rf"context length \({_N}",
        rf"{_N} maximum context length",
        rf"context (?:window|size)(?: of| is| \()? ?\(?{_N}",
        rf"maximum prompt length is {_N}",
        rf"maximum (?:model|sequence) length of {_N}",
        rf"maximum number of tokens allowed \({_N}",
        rf"configured limit of {_N}",
        rf"must have less than {_N} tokens",
        rf"max_new_tokens`? must be <= {_N}",
    )
)
_PROMPT: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\({_N} (?:tokens )?in (?:the messages|your prompt)",
        rf"\({_N} of text input",
        rf"messages resulted in {_N} tokens",
        rf"(?:has|passed|contains) {_N} (?:input )?tokens",
        rf"prompt is too long: {_N} tokens",
        rf"context limit: {_N} \+",
        rf"input token count \({_N}\)",
        rf"input \({_N} tokens\) is longer",
        rf"{_N} tokens from the input",
        rf"prompt \(length {_N}\)",
        rf"prompt \({_N} tokens\)",
        rf"requested tokens \({_N}\) exceed",
        rf"request \({_N} tokens\) exceeds",
        rf"given: {_N} `?inputs`? tokens",
        rf"given: {_N}",
    )
)


class RefusedLength(NamedTuple):
    """What an endpoint said of a request that was too long: in tokens, and None where it did not say."""

    window_tokens: int | None = None
    prompt_tokens: int | None = None
    answer_tokens_max: int | None = None


def too_long(error: object, words: str) -> RefusedLength | None:
    """Return what an error says of a request's length; None: it is about something else."""
    words = words[:_WORDS_CHARS_MAX]
    if (most := _number(_ANSWER_TOO_LONG, words)) is not None:
        # The last one excludes its upper end; one token less fits the others as well.
        return RefusedLength(answer_tokens_max=max(1, most - ("exclusive" in words)))
    coded = any(member(error, name) in _CODES for name in ("code", "type") if _is_text(member(error, name)))
    if not coded and not _TOO_LONG.search(words):
        return None
    window, prompt = _whole(member(error, "n_ctx")), _whole(member(error, "n_prompt_tokens"))
    window = window or _number(_WINDOW, words)
    prompt = prompt or _number(_PROMPT, words)
    return RefusedLength(window, prompt)


def _number(patterns: tuple[re.Pattern[str], ...], words: str) -> int | None:
    for pattern in patterns:
        if found := pattern.search(words):
            return _whole(int(re.sub("[,_]", "", found[1])))
    return None


def _whole(value: object) -> int | None:
    return value if type(value) is int and 0 < value <= _TOKENS_MAX else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)
