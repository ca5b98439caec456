"""Values on the host's side of the wall: the rule for what goes in, the gate for what comes back."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter, OrderedDict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import BoundaryViolation, NoJsonForm, ValueTooLarge
from rlm_wasm.values import NESTING_MAX, JsonText, decode_text, decode_value

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@dataclass
class Point:
    x: int
    seen: datetime
    more: list[Any] = field(default_factory=list)


class Row(msgspec.Struct):
    name: str
    at: date


class Model:
    """What a pydantic model is to us: it knows how to become a mapping."""

    def __init__(self, **fields: object) -> None:
        self._fields = fields

    def model_dump(self) -> dict[str, object]:
        return self._fields

    def __repr__(self) -> str:
        return f"Model({self._fields})"


class Colour(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


class Other(Enum):
    LIST = (1, 2)


Pair = namedtuple("Pair", "left right")
NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": [1, 2.5, None, True, "é\ud800"]}, {"a": [1, 2.5, None, True, "é\ud800"]}),
        ((1, (2, 3)), [1, [2, 3]]),
        (Pair(1, "b"), [1, "b"]),
        (10**400, 10**400),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (NOON, "2026-11-28T12:00:00+00:00"),
        (date(2026, 11, 28), "2026-11-28"),
        (time(12, 30), "12:30:00"),
        (Point(1, NOON, [Row("r", date(2026, 1, 2))]), None),
        (Model(word="w", when=NOON), {"word": "w", "when": "2026-11-28T12:00:00+00:00"}),
        ([Colour.RED, Number.ONE, Other.LIST], ["red", 1, [1, 2]]),
    ],
    ids=repr,
)
def test_what_goes_in_becomes_plain_json(value: object, plain: object) -> None:
    if isinstance(value, Point):
        rows = [{"name": "r", "at": "2026-01-02"}]
        plain = {"x": 1, "seen": "2026-11-28T12:00:00+00:00", "more": rows}
    text = JsonText.of(value)
    assert json.loads(text) == plain
    assert text.isascii()
    assert text.type_name == type(plain).__name__


def holds_itself() -> list[Any]:
    made: list[Any] = []
    made.append({"again": made})
    return made


def deep(levels: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"rows": [1, {2, 3}]}, r"value\['rows'\]\[1\] is a set"),
        ([math.nan], r"value\[0\] is nan"),
        ({"a": {"b": -math.inf}}, r"value\['a'\]\['b'\] is -inf"),
        ({"a": b"bytes"}, r"value\['a'\] is a bytes"),
        ({1: 2}, "value has a key that is a int"),
        ([{None: 2}], r"value\[0\] has a key that is a NoneType"),
        (holds_itself(), "holds itself"),
        (deep(NESTING_MAX), "nested deeper than 100"),
        (object(), "value is a object"),
        (Point, "value is a type"),
        (Path("x"), "PosixPath"),
        (10**5_000, "cannot be written as JSON"),
        ((n for n in "ab"), "generator"),
    ],
    ids=[*"abcdefghijklm"],
)
def test_what_has_no_json_form_is_named(value: object, said: str) -> None:
    with pytest.raises(NoJsonForm, match=said):
        JsonText.of(value)


def test_a_nesting_that_is_allowed_is_taken() -> None:
    assert json.loads(JsonText.of(deep(NESTING_MAX - 1))) == deep(NESTING_MAX - 1)


@given(JSON)
def test_every_json_value_comes_back_as_it_was(value: Any) -> None:
    frame = b"j" + json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert decode_value(frame) == value
    assert json.loads(JsonText.of(value)) == value


@given(st.text(), st.binary())
def test_text_and_bytes_come_back_as_themselves(text: str, data: bytes) -> None:
    frame = b"t" + text.encode("utf-8", "surrogatepass")
    assert decode_value(frame) == decode_text(frame) == text
    assert decode_value(b"b" + data) == data


@pytest.mark.threat("T-191")
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"j" + data))
def test_hostile_bytes_are_a_value_or_one_of_two_errors(frame: bytes) -> None:
    with contextlib.suppress(BoundaryViolation, NoJsonForm, ValueTooLarge):
        assert type(decode_value(frame)) in (str, bytes, int, float, bool, list, dict, type(None))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"x1",
        b"j",
        b"j1 2",
        b"jNaN",
        b"j[1e999]",
        b"j-Infinity",
        b"j" + b"9" * 5_000,
        b"j" + b"[" * 101 + b"]" * 101,
        b"j" + b"[" * 1_000_000,
        b"j" + b'{"a":' * 200_000,
        b"j" + b'["\\"[[[[", ' + b"[" * 200,
        b'j"unended',
        b"t\xff",
        b"j\xff",
    ],
    ids=lambda frame: repr(frame[:12]),
)
def test_what_the_guests_modules_do_not_send_is_a_violation(frame: bytes) -> None:
    with pytest.raises(BoundaryViolation) as violation:
        decode_value(frame)
    assert violation.value.__cause__ is None


@pytest.mark.parametrize("frame", [b"", b"j[]", b'j"x"', b"bx", b"-no", b"t\xff", b"x1"], ids=repr)
def test_where_a_text_is_wanted_anything_else_is_a_violation(frame: bytes) -> None:
    with pytest.raises(BoundaryViolation):
        decode_text(frame)


def test_brackets_inside_of_strings_are_no_nesting() -> None:
    value = ["[" * 500, '"' * 300, "\\" * 301 + "["]
    assert decode_value(b"j" + json.dumps(value).encode()) == value


def test_the_reason_that_a_guest_gives_is_one_line_of_bounded_text() -> None:
    with pytest.raises(NoJsonForm) as told:
        decode_value(b"-a\nb\x1b[2J" + b"x" * 5_000)
    assert told.value.message.isprintable()
    assert len(told.value.message) <= 1_000
