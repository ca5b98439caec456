"""The problems of a policy as sentences an operator can act on, each with its line.

A value is quoted only where it cannot be a secret: an operator who pastes an API key into the
wrong place must not find it in a CI log.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, time
from typing import Any, Final, TypeAlias, get_args, get_type_hints

from pydantic_core import ErrorDetails, ValidationError

from rlm_wasm.errors import PolicyError
from rlm_wasm.policy.extends import EXTENDS

Key: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key stands: the file as messages show it, the line, how many files inherit it from there."""

    origin: str
    line: int
    level: int = 0


Places: TypeAlias = Mapping[Key, Place]

PROBLEMS_SHOWN_MAX: Final = 50
_QUOTED_CHARS_MAX: Final = 60

_TYPE_WORDS: Final = {
    "int_type": "must be an integer",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "dict_type": "must be a table",
    "list_type": "must be an array",
}
_ENV_NAME_WORDS: Final = (
    "must be the name of an environment variable (letters, digits, _), never the key itself"
)
_PATTERN_WORDS: Final = {
    "api_key_env": _ENV_NAME_WORDS,
    "snapshot_key_env": _ENV_NAME_WORDS,
    "root": 'must be "provider:model", for example "openai:gpt-5"',
    "sub": 'must be "provider:model", for example "openai:gpt-5-mini"',
    "child": 'each must be "provider:model", for example "openai:gpt-5-mini"',
    "prices": 'each key must be "provider:model", for example "openai:gpt-5"',
    "windows": 'each key must be "provider:model", for example "openai:gpt-5"',
    "settings": 'each key must be "provider:model", for example "openai:gpt-5"',
    "headers": "must be the name of a header and a text of printable ASCII, without spaces around it",
    "providers": "must be a name of small letters, digits, _ and -, a letter first",
    "file": "must be the name of a file",
    "ca_file": "must be the name of a file",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a policy, and where. `related` are the other keys that it is about."""

    key: Key
    message: str
    related: tuple[Key, ...] = ()

    def render(self, origin: str, places: Places) -> str:
        """Return ``origin:line: key: message``, without the parts that are not known."""
        place = self.place(places)
        where = origin if place is None else f"{place.origin}:{place.line}"
        return f"{where}: {dotted(self.key)}: {self.message}" if self.key else f"{where}: {self.message}"

    def place(self, places: Places) -> Place | None:
        """Return where the key is, or the table that lacks it, or None.

        Of several keys, the one that the last file changed: what that inherits was right before.
        """
        found = [places[key] for key in (self.key, *self.related) if key in places]
        return min(found, key=lambda place: place.level, default=places.get(self.key[:-1]))

    def rank(self, places: Places) -> tuple[int, int]:
        """Return what puts problems into the order of the files, the one that inherits first."""
        place = self.place(places)
        return (0, 0) if place is None else (place.level, place.line)


def policy_error(problems: list[Problem], origin: str, places: Places) -> PolicyError:
    """Return one error that lists every problem in the order of the file, up to a bound."""
    ordered = sorted(problems, key=lambda problem: problem.rank(places))
    rendered = [problem.render(origin, places) for problem in ordered[:PROBLEMS_SHOWN_MAX]]
    if len(ordered) > PROBLEMS_SHOWN_MAX:
        rendered.append(f"{origin}: and {len(ordered) - PROBLEMS_SHOWN_MAX} more problems")
    return PolicyError("\n".join(rendered))


def explain(error: ValidationError, table: type) -> list[Problem]:
    """Turn the library's report about a table into problems; a misspelt key is told once, not twice."""
    details = error.errors(include_url=False)
    missing = dict.fromkeys(_key(detail) for detail in details if detail["type"] == "missing")
    problems: list[Problem] = []
    for detail in details:
        key = _key(detail)
        match detail["type"]:
            case "missing":
                continue
            case "extra_forbidden":
                now = RENAMED.get(str(key[-1]))
                meant = _nearest(key, table) if now is None else (*key[:-1], now)
                if meant is not None:
                    missing.pop(meant, None)
                problems.append(Problem(key, _unknown(key, detail["input"], meant)))
            case _:
                problems.append(Problem(key, _message(key, detail)))
    problems.extend(Problem(key, _missing(key)) for key in missing)
    return problems


def dotted(key: Key) -> str:
    """Return `key` as TOML would write it, with nothing in it that a terminal could obey."""
    return ".".join(_bare(str(part)) for part in key)


def quoted(value: object) -> str:
    """Return a short, printable form of `value`; ``repr`` of a huge int would raise."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = ascii(value)
    return text if len(text) <= _QUOTED_CHARS_MAX else text[:_QUOTED_CHARS_MAX] + "..."


def _key(detail: ErrorDetails) -> Key:
    # The library marks an error about a mapping's key, rather than its value, with a last "[key]".
    return tuple(part for part in detail["loc"] if part != "[key]")


def _message(key: Key, detail: ErrorDetails) -> str:
    kind, value = detail["type"], detail["input"]
    context: dict[str, Any] = detail.get("ctx", {})
    if kind in _TYPE_WORDS:
        return f"{_TYPE_WORDS[kind]} (got {_kind_of(value)})"
    match kind:
        case "greater_than":
            return f"must be greater than {context['gt']} (got {quoted(value)})"
        case "greater_than_equal":
            return f"must be at least {context['ge']} (got {quoted(value)})"
        case "less_than_equal":
            return f"must be at most {context['le']} (got {quoted(value)})"
        case "less_than":
            return f"must be less than {context['lt']} (got {quoted(value)})"
        case "string_pattern_mismatch":
            return _PATTERN_WORDS.get(_field_of(key), "has the wrong form")
        case "string_too_long":
            return f"must be at most {context['max_length']} characters"
        case "too_short":
            return f"must have at least {context['min_length']} entries"
        case "too_long":
            return f"must have at most {context['max_length']} entries"
        case "literal_error":
            return _not_in_list(value, str(context["expected"]))
        case _:
            return detail["msg"]


def _field_of(key: Key) -> str:
    """Return the field that a key belongs to: free keys are called as they like."""
    if key[0] == "providers" and len(key) == 2:
        return "providers"
    tables = ("headers", "settings", "windows", "prices", "child")
    return next((name for name in tables if name in key[1:-1]), str(key[-1]))


def _not_in_list(value: object, expected: str) -> str:
    # A string here is a choice between words, and only a short word is worth quoting.
    got = quoted(value) if isinstance(value, str) and len(value) <= 20 else _kind_of(value)
    return f"must be {expected} (got {got})"


def _kind_of(value: object) -> str:
    match value:
        case bool() | int() | float() | dict() | list():
            return quoted(value)
        case str():
            return "a string"
        case date() | time():
            return "a date or time"
        case None:
            return "nothing"
        case _:  # no file can hold it
            return "a Python object"


def _missing(key: Key) -> str:
    if len(key) == 1:
        return f"the table [{dotted(key)}] is missing"
    return "is missing; no limit or grant has a default"


_EXTENDS_BELOW: Final = "stands above the first table of its file"
_EXTENDS_NOWHERE: Final = "is a key of files alone; in Python, change a policy with its method replace"

# Keys of earlier versions, and what they are called now.
RENAMED: Final = {"image_key_env": "snapshot_key_env"}


def _unknown(key: Key, value: object, meant: Key | None) -> str:
    if (now := RENAMED.get(str(key[-1]))) is not None:
        return f"this key is called `{now}` now"
    if key[-1] == EXTENDS:
        return _EXTENDS_BELOW if len(key) > 1 else _EXTENDS_NOWHERE
    noun = "table" if isinstance(value, dict) else "key"
    return f"unknown {noun}" if meant is None else f"unknown {noun}; did you mean `{_bare(str(meant[-1]))}`?"


def _nearest(key: Key, table: type) -> Key | None:
    matches = difflib.get_close_matches(str(key[-1])[:100], _keys_at(key[:-1], table), n=1, cutoff=0.6)
    return (*key[:-1], matches[0]) if matches else None


def _keys_at(path: Key, table: type) -> list[str]:
    """Return the keys of the table at `path` below `table`."""
    current: Any = table
    for part in path:
        if current is None:
            return []
        hints = get_type_hints(current)
        if part in hints:
            current = _table_in(hints[str(part)])
        # Otherwise `part` is a free key of a mapping (a model's name), whose table we already have.
    return [] if current is None else [field.name for field in fields(current)]


def _table_in(hint: object) -> type | None:
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next(filter(None, map(_table_in, get_args(hint))), None)


def _bare(part: str) -> str:
    if part and all(c.isascii() and (c.isalnum() or c in "_-") for c in part):
        return part
    shown = part if len(part) <= _QUOTED_CHARS_MAX else part[:_QUOTED_CHARS_MAX] + "..."
    body = "".join(c if c.isprintable() and c not in '"\\' else _escaped(c) for c in shown)
    return f'"{body}"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return f"\\u{ord(char):04X}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08X}"
