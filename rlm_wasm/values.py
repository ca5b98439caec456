"""Values across the wall: what a caller gives as JSON for the guest, and the gate for what comes back.

The rule for what goes in: str, int, float, bool and None as they are, lists and tuples as arrays, mappings
with str keys as objects; a dataclass, a msgspec Struct and a pydantic model as the object of its fields; a
datetime, date or time as its ISO 8601 text; an Enum as its value. Anything else has no JSON form, nor has a
NaN, an infinity, bytes inside of something, or what holds itself. A str or bytes by itself needs none of it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from enum import Enum
from itertools import accumulate
from typing import Any, Final, Self, TypeAlias

import msgspec

from rlm_wasm.errors import BoundaryViolation, NoJsonForm, ValueTooLarge
from rlm_wasm.json_text import outside_strings

# What a guest may give back: plain JSON values, and text and bytes by themselves.
Value: TypeAlias = str | bytes | int | float | bool | list[Any] | dict[str, Any] | None

NESTING_MAX: Final = 100
_SHOWN_CHARS: Final = 80
_PATH_CHARS_MAX: Final = 200
# How the guest marks what it sends; `rlm_values` has the same.
_TEXT, _BYTES, _JSON, _NONE = b"t", b"b", b"j", b"-"
# `rlm_values.SHOWN_ROOM` and the words that it refuses more with.
SHOWN_BYTES_MAX: Final = 65_536
_TOO_LARGE: Final = f"the value is larger than {SHOWN_BYTES_MAX},"
_REASON_CHARS_MAX: Final = 1_000
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = {byte: 1 if byte in b"[{" else -1 for byte in b"[]{}"}


class JsonText(str):
    """The JSON text of a value that is to be that value in the guest: `type_name` there, `length` items."""

    type_name: str
    length: int

    @classmethod
    def of(cls, value: object, name: str = "value") -> Self:
        """Return the text of a value, by the rule above. Raises NoJsonForm, which calls it by its name."""
        plain = _plain(value, name, 0)
        try:
            # Escaped, so that each character of it takes one byte in the guest.
            made = cls(json.dumps(plain, allow_nan=False, check_circular=False, separators=(",", ":")))
        except ValueError as error:  # an int of too many digits
            raise NoJsonForm(f"{name} cannot be written as JSON: {error}") from error
        made.type_name = type(plain).__name__
        made.length = len(plain) if isinstance(plain, list | dict | str) else 1
        return made

    @classmethod
    def recorded(cls, text: str, name: str) -> Self:
        """Return the text of a value again that was written out. Raises NoJsonForm: it is no JSON."""
        try:
            return cls.of(json.loads(text), name)
        except ValueError as error:
            raise NoJsonForm(f"{name} is no JSON: {error}") from error


class _Room:
    """How much more may come of a value: as many characters and items, all of which a text takes at least."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, value: object) -> None:
        self.left -= len(value) if isinstance(value, str) else 1
        if self.left < 0:
            raise ValueTooLarge(None, "the value is larger than it may be")


def plain_value(value: object, name: str, room: int) -> Any:
    """Return the same value made of what JSON has, by the rule above, if its text may fit into `room` bytes.

    Raises:
        NoJsonForm: it has none; `name` is what the message calls it.
        ValueTooLarge: its text takes more, and not much more than that was looked at.
    """
    return _plain(value, name, 0, _Room(room))


def _plain(value: object, path: str, depth: int, room: _Room | None = None) -> Any:
    """Return the same value made of what JSON has."""
    if room is not None:
        room.take(value)
    match value:
        case None | bool():
            return value
        case Enum():
            return _plain(value.value, path, depth + 1, room)
        case str():
            return str.__str__(value)
        case int():
            return int(value)
        case float():
            if math.isfinite(value):
                return float(value)
            raise NoJsonForm(f"{path} is {float.__repr__(value)}, which has no JSON form")
    if depth == NESTING_MAX:
        raise NoJsonForm(f"{path[:_PATH_CHARS_MAX]} holds itself, or is nested deeper than {NESTING_MAX}")
    match value:
        case list() | tuple():
            return [_plain(item, f"{path}[{at}]", depth + 1, room) for at, item in enumerate(value)]
        case Mapping():
            return {
                _key(key, path, room): _plain(item, _path(path, key), depth + 1, room)
                for key, item in value.items()
            }
        case datetime() | date() | time():
            return value.isoformat()
        case msgspec.Struct():
            return _plain(msgspec.structs.asdict(value), path, depth + 1, room)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _plain(fields, path, depth + 1, room)
    dump = getattr(type(value), "model_dump", None)
    if dump is not None:  # pydantic's, which is loaded by whoever has such a model
        return _plain(dump(value), path, depth + 1, room)
    raise NoJsonForm(f"{path} is a {type(value).__name__}, which has no JSON form")


def _key(key: object, path: str, room: _Room | None) -> str:
    if not isinstance(key, str):
        raise NoJsonForm(f"{path} has a key that is a {type(key).__name__}; JSON's are text")
    if room is not None:
        room.take(key)
    return str.__str__(key)


def _path(path: str, key: object) -> str:
    return f"{path}[{repr(key)[:_SHOWN_CHARS]}]"


def decode_value(frame: bytes) -> Value:
    """Decode a value that a guest sent: hostile bytes, whose number the caller has bounded.

    Time and memory are linear in them; an object takes up to some twenty times its text.

    Raises:
        NoJsonForm: the guest says that there is none, and why.
        ValueTooLarge: the guest says that a result has no room for it.
        BoundaryViolation: the guest's modules send no such bytes. Nothing else leaves this function.
    """
    mark, body = frame[:1], frame[1:]
    try:
        if mark == _BYTES:
            return body
        text = body.decode("utf-8", "surrogatepass")
        if mark == _TEXT:
            return text
        if mark == _JSON:
            _check_nesting(body)
            decoded: Value = _DECODER.decode(text)
            return decoded
    except BoundaryViolation:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises, the guest did it
        # Not chained: the decoder's message may quote the frame.
        raise BoundaryViolation(f"the value is malformed ({type(error).__name__})") from None
    if mark == _NONE and text.startswith(_TOO_LARGE):
        raise ValueTooLarge(
            None,
            f"the value is larger than the {SHOWN_BYTES_MAX:_} that come with a cell's result",
            hint="give it a name in the cell and take it by that: `session.get(name)`, which gives as "
            "much as cell.result_bytes_max",
        )
    if mark == _NONE:
        raise NoJsonForm("".join(c if c.isprintable() else "\ufffd" for c in text[:_REASON_CHARS_MAX]))
    raise BoundaryViolation("a value of no kind that there is")


def decode_text(frame: bytes) -> str:
    """Decode a value that has to be a text. Of any other nothing is made: its bytes are not looked at.

    Raises:
        BoundaryViolation: it is none. Nothing else leaves this function.
    """
    text = decode_value(frame) if frame[:1] == _TEXT else None
    if not isinstance(text, str):
        raise BoundaryViolation("a value that is no text")
    return text


def _check_nesting(body: bytes) -> None:
    # Every string takes two quotes: the count is exact whatever the text is.
    bare = outside_strings(body, body.count(b'"')) or b""
    brackets = bare.translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > NESTING_MAX:
        raise BoundaryViolation(f"a value nested deeper than {NESTING_MAX}")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise BoundaryViolation("a number that is none")
    return number


def _no_constant(name: str) -> float:
    raise BoundaryViolation("a number that is none")


_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)
