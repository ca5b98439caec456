"""What endpoints say when a request is too long, in the words that they use."""

from __future__ import annotations

import pytest

from rlm_wasm.providers.refusals import refusal
from rlm_wasm.providers.window_refusal import RefusedLength, too_long

# One for each wording that is known, shortened only where it repeats itself.
WORDS = [
    (
        "This model's maximum context length is 2048 tokens. However, you requested 18445 tokens (2061 in "
        "the messages, 16384 in the completion). Please reduce the length of the messages or completion.",
        RefusedLength(2048, 2061),
    ),
    (
        "This model's maximum context length is 2049 tokens, however you requested 2054 tokens (2049 in your "
        "prompt; 5 for the completion). Please reduce your prompt; or completion length.",
        RefusedLength(2049, 2049),
    ),
    (
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 172152 "
        "tokens. Please reduce the length of the messages.",
        RefusedLength(128_000, 172_152),
    ),
    (
        "'max_tokens' or 'max_completion_tokens' is too large: 10000. This model's maximum context length is "
        "8192 tokens and your request has 1000 input tokens (10000 > 8192 - 1000).",
        RefusedLength(8192, 1000),
    ),
    (
        "You passed 9001 input tokens and requested 100 output tokens. However, the model's context length "
        "is only 9000 tokens, resulting in a maximum input length of 8900 tokens.",
        RefusedLength(9000, 9001),
    ),
    (
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        RefusedLength(4096, 5000),
    ),
    ("prompt is too long: 210000 tokens > 200000 maximum", RefusedLength(200_000, 210_000)),
    (
        "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length "
        "or `max_tokens` and try again",
        RefusedLength(200_000, 178_959),
    ),
    ("Requested tokens (2285) exceed context window of 2048", RefusedLength(2048, 2285)),
    (
        "The input token count (314175) exceeds the maximum number of tokens allowed (131072).",
        RefusedLength(131_072, 314_175),
    ),
    (
        "This endpoint's maximum context length is 32768 tokens. However, you requested about 42832 tokens "
        "(42832 of text input). Please reduce the length of either one.",
        RefusedLength(32_768, 42_832),
    ),
    (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 2000 `inputs` "
        "tokens and 4000 `max_new_tokens`",
        RefusedLength(4096, 2000),
    ),
    (
        "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000",
        RefusedLength(4095, 5000),
    ),
    (
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum "
        "context length",
        RefusedLength(32_768, 40_000),
    ),
    (
        "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
        RefusedLength(131_072, 140_000),
    ),
    (
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        RefusedLength(8192, 9000),
    ),
    (
        "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a "
        "total of 10000 tokens: 2000 tokens from the input messages and 8000 tokens for the completion.",
        RefusedLength(8192, 2000),
    ),
    (
        "request (14429 tokens) exceeds the available context size (8192 tokens), try increasing it",
        RefusedLength(8192, 14_429),
    ),
    ("Input is too long for requested model.", RefusedLength()),
    ("Your input exceeds the context window of this model.", RefusedLength()),
    ("Please reduce the length of the messages or completion.", RefusedLength()),
    ("This model's maximum context length is 128,000 tokens.", RefusedLength(128_000)),
    (
        "max_tokens is too large: 16384. This model supports at most 4096 completion tokens, whereas you "
        "provided 16384.",
        RefusedLength(answer_tokens_max=4096),
    ),
    (
        "max_tokens: 16384 > 8192, which is the maximum allowed number of output tokens for it",
        RefusedLength(answer_tokens_max=8192),
    ),
    (
        "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
        RefusedLength(answer_tokens_max=8192),
    ),
]
OTHERS = [
    "Rate limit reached: Limit 6000 tokens per minute, Requested 9000.",
    "temperature must be at most 2",
    "The model `gpt-9` does not exist",
    "max_tokens must be a positive integer",
    "",
]


@pytest.mark.parametrize(("words", "found"), WORDS)
def test_a_wording_that_is_known_gives_its_numbers(words: str, found: RefusedLength) -> None:
    assert too_long({}, words) == found
    for body in ({"error": {"message": words, "code": 400}}, {"object": "error", "message": words}):
        trouble = refusal(400, {}, body)
        assert trouble.too_long == found
        assert (trouble.retryable, trouble.sent) == (False, False)


@pytest.mark.parametrize("words", OTHERS)
def test_what_is_about_something_else_is_not_taken_for_it(words: str) -> None:
    assert too_long({}, words) is None


def test_a_code_says_it_without_words_and_fields_give_the_numbers() -> None:
    assert too_long({"code": "context_length_exceeded"}, "") == RefusedLength()
    # With a 500, as an older server of its kind does: to try the same again is of no use.
    error = {"code": 500, "type": "exceed_context_size_error", "n_prompt_tokens": 1407, "n_ctx": 256}
    error["message"] = "the request exceeds the available context size. try increasing the context size"
    trouble = refusal(500, {}, {"error": error})
    assert (trouble.too_long, trouble.retryable) == (RefusedLength(256, 1407), False)


@pytest.mark.parametrize("number", ["0", "99999999999999", "9" * 400])
def test_a_number_that_no_window_has_is_none(number: str) -> None:
    found = too_long({"n_ctx": -5, "n_prompt_tokens": True}, f"maximum context length is {number} tokens")
    assert found == RefusedLength()


def test_a_request_to_come_back_later_is_no_matter_of_length() -> None:
    words = "Request too large: please reduce the length of the messages. Limit 6000 tokens per minute"
    trouble = refusal(429, {}, {"error": {"message": words}})
    assert (trouble.too_long, trouble.retryable, trouble.throttled) == (None, True, True)


@pytest.mark.parametrize(
    "raw", [{"code": 500, "type": "exceed_context_size_error", "n_ctx": 256}, WORDS[0][0]]
)
def test_what_a_gateways_origin_says_of_a_length_is_heeded(raw: object) -> None:
    error = {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}
    trouble = refusal(400, {}, {"error": error})
    window = 256 if isinstance(raw, dict) else 2048
    assert trouble.too_long is not None
    assert trouble.too_long.window_tokens == window
