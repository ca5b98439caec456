"""The gate for a typed answer: text of a model's or a guest's in, a plain JSON value out, or what is wrong.

Nothing is made of a text before its size and nesting are known to be within bounds. Beyond JSON's grammar it
refuses what two readers could take for two things: a key that stands twice in an object, NaN and infinities,
half of a surrogate pair.
"""

from __future__ import annotations

import json
import math
from itertools import accumulate
from typing import Any, Final, NoReturn

from rlm_wasm.json_text import outside_strings
from rlm_wasm.values import NESTING_MAX

# Python itself reads no longer int, unless a program has it do so: that takes the square of its length.
DIGITS_MAX: Final = 4_300
_KEY_CHARS_MAX: Final = 80
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = {byte: 1 if byte in b"[{" else -1 for byte in b"[]{}"}


class AnswerRefused(Exception):
    """An answer is not what is wanted. Each of `problems` says where, and what."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems: Final = problems


def read_json(text: str, bytes_max: int, key: str) -> Any:
    """Return the value of a JSON text. Raises AnswerRefused; nothing else leaves this function.

    `key` is the limit's, for the message.
    """
    if len(text) > bytes_max or len(data := _utf8(text)) > bytes_max:
        raise AnswerRefused(f"$: the answer takes more than {bytes_max} bytes, which is {key}")
    bare = outside_strings(data, data.count(b'"')) or b""
    brackets = bare.translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > NESTING_MAX:
        raise AnswerRefused(f"$: the answer is nested deeper than {NESTING_MAX}")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        problem = f"$: the answer is no JSON: {error.msg} (line {error.lineno}, column {error.colno})"
    else:
        if "\\u" in text:
            _check_surrogates(value)
        return value
    raise AnswerRefused(
        problem
    )  # outside the handler: the decoder's error, which holds the text, is not chained


def unfenced(text: str) -> str:
    """Return what stands in a Markdown fence, where a text is nothing but one."""
    bare = text.strip()
    if len(bare) > 6 and bare.startswith("```") and bare.endswith("```") and "\n" in bare:
        return bare[3:-3].partition("\n")[2].strip()
    return bare


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        _refuse_surrogate()


def _check_surrogates(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        _refuse_surrogate()


def _refuse_surrogate() -> NoReturn:
    raise AnswerRefused("$: the answer holds half of a surrogate pair, which is no text") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise AnswerRefused(f"$: an object of the answer has the key {twice[:_KEY_CHARS_MAX]!r} twice")
    return made


def _int(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        raise AnswerRefused(f"$: the answer holds a number of more than {DIGITS_MAX} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits) if len(digits) <= DIGITS_MAX else math.inf
    if not math.isfinite(number):
        raise AnswerRefused("$: the answer holds a number that is too large, or of too many digits")
    return number


def _constant(name: str) -> float:
    raise AnswerRefused(f"$: the answer holds {name}, which JSON has not")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_constant
)
