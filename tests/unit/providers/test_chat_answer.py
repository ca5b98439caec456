"""An endpoint's answer costs about what its text does, whatever else is in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlm_wasm.providers import json_body
from rlm_wasm.providers.answer_body import WholeBody
from rlm_wasm.providers.base import Completion
from rlm_wasm.providers.chat_answer import completion_of
from rlm_wasm.providers.refusals import Trouble

SIZE = 1 << 20


def decode_completion(body: bytes) -> Completion | Trouble:
    whole = WholeBody(16 << 20)
    whole.take(body)
    document = whole.document()
    return document if isinstance(document, Trouble) else completion_of(document, {})


BOMBS = {
    "lists": b"[" + b"[]," * (SIZE // 3) + b"[]]",
    "objects": b"[" + b"{}," * (SIZE // 3) + b"{}]",
    "deep": b"[" * SIZE,
    "keys": b"{" + b",".join(b'"%x":0' % number for number in range(SIZE // 10)) + b"}",
    "strings that end with a backslash": b"[" + b'"\\\\",' * (SIZE // 5) + b'""]',
    "one key again and again": b"{" + b'"a":0,' * (SIZE // 6) + b'"a":0}',
}


@pytest.mark.threat("T-176")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_body_of_more_values_than_an_answer_has_is_not_decoded(
    bomb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_body, "_parse", lambda _: pytest.fail("it was decoded"))
    told = Trouble("sent more values than an answer has", retryable=False)
    assert decode_completion(b'{"choices":' + BOMBS[bomb] + b"}") == told


@settings(max_examples=200, deadline=None)
@given(
    part=st.text(alphabet='a"\\[]{},:\n\u00e9', min_size=1, max_size=8),
    times=st.integers(1, 20_000),
    escaped=st.booleans(),
)
def test_whatever_stands_in_a_text_it_is_an_answer(part: str, times: int, escaped: bool) -> None:
    text = part * times
    assume(text.strip())
    document = {
        "choices": [{"message": {"content": text}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    body = json.dumps(document, ensure_ascii=escaped).encode()
    assert decode_completion(body) == Completion(text, 1, 2)
    assert decode_completion(b"\xef\xbb\xbf" + body) == Completion(text, 1, 2)


def test_another_encoding_than_utf_8_is_not_guessed() -> None:
    body = json.dumps({"choices": [{"message": {"content": "x"}}]}).encode("utf-16")
    assert decode_completion(body) == Trouble("sent something that is not JSON", retryable=False)
