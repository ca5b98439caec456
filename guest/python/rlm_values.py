"""A value of the session as bytes for the host: text and bytes as they are, all else as JSON, or why not.

One byte says which, then the bytes follow. The host decodes them at a gate of its own; nothing here is a
security control.
"""

import json
import math

import _rlm

STREAM_VALUE = 6
TEXT, BYTES, JSON, NONE = b"t", b"b", b"j", b"-"
NESTING_MAX = 100
# What comes with the result of any cell is at most so much; who asks for a variable gets what the host takes.
SHOWN_ROOM = 65_536
_ASKED_ROOM = 1 << 26

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode
_loads = json.loads
_SCALARS = frozenset((int, bool, type(None)))


class NoForm(Exception):
    """The value has no JSON form; the message says what of it has none."""


def tell(value, room=_ASKED_ROOM):
    """Send a value to the host, or why there is none."""
    try:
        frame = _frame(value, room)
    except NoForm as why:
        frame = NONE + str(why).encode("utf-8", "replace")
    except Exception as error:  # no memory for its text, an int with too many digits
        frame = NONE + f"the value cannot be written as JSON ({type(error).__name__})".encode()
    _rlm.emit(STREAM_VALUE, frame)


def read(text):
    """The value of a JSON text that the host made."""
    return _loads(text)


def check(value):
    """Raise NoForm where a value has no JSON form, or one larger than any host takes."""
    _check(((None, value),), "value", 0, _ASKED_ROOM, _ASKED_ROOM)


def answer_text(value):
    """The JSON of an answer; also of dataclasses, dates, sets and the like. Raises what says why there is none."""
    return _encode_answer(value)


def _plain(value):
    """The same as something that the encoder knows. Of one that is a type itself nothing is asked."""
    kind = type(value)
    if hasattr(kind, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in kind.__dataclass_fields__}
    if issubclass(kind, (set, frozenset, range, *_VIEWS)):
        return list(value)
    if hasattr(kind, "_value2member_map_"):  # an Enum
        return value.value
    for name in ("isoformat", "tolist", "model_dump", "_asdict"):
        if hasattr(kind, name):
            return getattr(value, name)()
    raise TypeError(
        f"the answer holds a {kind.__name__}, which has no JSON form: it takes dicts, lists, text, numbers, True, "
        "False and None"
    )


_VIEWS = (type({}.keys()), type({}.values()))
_encode_answer = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
).encode


def _frame(value, room):
    kind = type(value)
    if issubclass(kind, (str, bytes)):
        if len(value) > room:
            raise NoForm(f"the value is larger than {room}, the most that comes with a result; ask for it by its name")
        return TEXT + value.encode("utf-8", "surrogatepass") if issubclass(kind, str) else BYTES + value
    if kind is int:
        return JSON + int.__repr__(value).encode()
    _check(((None, value),), "value", 0, room, room)
    return JSON + _encode(value).encode("utf-8", "surrogatepass")


def _check(items, path, depth, left, room):
    """Return what is left of the room after these; the encoder alone would take far more for JSON than is."""
    if depth > NESTING_MAX:
        raise NoForm(f"the value holds itself, or is nested deeper than {NESTING_MAX}")
    for key, item in items:
        kind = type(item)
        left -= 1
        if kind is str:
            left -= len(item)
        elif kind in _SCALARS:
            pass
        elif issubclass(kind, dict):
            left = _check(_named(item, path, key), _path(path, key), depth + 1, left, room)
        elif issubclass(kind, (list, tuple)):
            left = _check(enumerate(item), _path(path, key), depth + 1, left, room)
        elif issubclass(kind, float):
            if not math.isfinite(item):
                raise NoForm(f"{_path(path, key)} is {float.__repr__(item)}, which has no JSON form")
        elif not issubclass(kind, (str, int)):
            raise NoForm(f"{_path(path, key)} is a {kind.__name__}, which has no JSON form")
        if left < 0:
            raise NoForm(f"the value is larger than {room}, the most that comes with a result; ask for it by its name")
    return left


def _named(value, path, key):
    for name, item in dict.items(value):
        if type(name) is not str:
            raise NoForm(f"{_path(path, key)} has a key that is a {type(name).__name__}; JSON's are text")
        yield name, item


def _path(path, key):
    return path if key is None else f"{path}[{key!r:.80}]"
