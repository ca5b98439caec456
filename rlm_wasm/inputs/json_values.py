"""The value that a JSON text is, made once its size is known: every few bytes of it can become an object."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any, Final

from rlm_wasm.errors import NoJsonForm
from rlm_wasm.inputs.kinds import InputKind
from rlm_wasm.json_text import outside_strings
from rlm_wasm.values import NESTING_MAX, JsonText

_STEPS: Final = {byte: 1 if byte in b"[{" else -1 for byte in b"[]{}"}
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class NoValue(Exception):
    """Why a text is not given as a value."""


def json_value(text: str, kind: InputKind, name: str, values_max: int) -> JsonText:
    """Return the value of a JSON text, or the list of those of JSON lines, as a guest takes it.

    Raises:
        NoValue: it is no JSON, holds more than `values_max` values or what has no JSON form, or is nested too
            deeply. Nothing else leaves this function.
    """
    _check_size(text, values_max)
    try:
        value = _lines(text) if kind is InputKind.JSONL else json.loads(text)
        return JsonText.of(value, name)
    except json.JSONDecodeError as error:
        raise NoValue(f"it is not valid JSON: {error.msg} in line {error.lineno}") from error
    except NoJsonForm as error:
        raise NoValue(f"it is not valid JSON: {error.message}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits
        raise NoValue("it holds what is no value here, such as a number of thousands of digits") from error


def _lines(text: str) -> list[Any]:
    values = []
    # At line feeds alone: a string may hold what else Python counts as the end of a line.
    for number, line in enumerate(text.split("\n"), 1):
        if bare := line.strip():
            try:
                values.append(json.loads(bare))
            except json.JSONDecodeError as error:
                raise json.JSONDecodeError(error.msg, "\n" * (number - 1), number - 1) from error
    return values


def _check_size(text: str, values_max: int) -> None:
    bare = outside_strings(text.encode("utf-8", "surrogatepass"), 2 * values_max)
    if bare is None or sum(map(bare.count, (b",", b"[", b"{", b"\n"))) > values_max:
        raise NoValue(
            f"it may hold more than {values_max} values, the most that inputs.json_values_max allows"
        )
    brackets = bare.translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > NESTING_MAX:
        raise NoValue(f"it is nested deeper than {NESTING_MAX}")
