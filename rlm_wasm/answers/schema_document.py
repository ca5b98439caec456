"""A JSON Schema as it is given: looked through once, so that checking against it is bounded and stays here.

What it may refer to is itself alone, by `#` or `#/…`. Its patterns are RE2's, which take time linear in the
text. What needs to know how other parts were evaluated is not taken: `unevaluatedProperties`, `$dynamicRef`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from rlm_wasm.errors import NoJsonForm, UsageError, ValueTooLarge
from rlm_wasm.providers.pattern import Pattern
from rlm_wasm.values import plain_value

# Its parts within one another; evaluating each takes some frames of Python's.
SCHEMA_NESTING_MAX: Final = 32
DRAFTS: Final = {
    "https://json-schema.org/draft/2020-12/schema": "2020-12",
    "http://json-schema.org/draft-07/schema": "07",
}
_NOT_TAKEN: Final = (
    *("$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems"),
    *("$schema", "$id", "id", "$vocabulary"),
)
_SCHEMAS: Final = (
    *("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not"),
    *("propertyNames", "then"),
)
_LISTS: Final = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAPS: Final = (
    *("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"),
)
# The parts that are about the same value as the schema that holds them.
_IN_PLACE: Final = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"}
)
_ASSERTING: Final = frozenset(
    {
        *("$ref", "const", "enum", "type", "required", "format", "minimum", "maximum", "multipleOf"),
        *(
            "exclusiveMinimum",
            "exclusiveMaximum",
            "minLength",
            "maxLength",
            "pattern",
            "minItems",
            "maxItems",
        ),
        *("uniqueItems", "minProperties", "maxProperties", "dependentRequired", "minContains", "maxContains"),
        *_SCHEMAS,
        *_LISTS,
        *_MAPS,
    }
    - {"$defs", "definitions"}
)
SCHEMA_HINT: Final = (
    'give a JSON Schema such as {"type": "object", "properties": {"n": {"type": "integer"}}}, or a type'
)


def plain_schema(given: Mapping[str, Any], bytes_max: int, key: str) -> tuple[str, dict[str, Any]]:
    """Return a schema as JSON text and as plain values. Raises UsageError: it has none, or is too large.

    `key` is the limit's, for the message.
    """
    try:
        plain = plain_value(given, "output", bytes_max)
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode("utf-8"))
    except ValueTooLarge:
        size = bytes_max + 1
    except NoJsonForm as error:
        raise UsageError(f"the schema is no JSON: {error.message}", hint=SCHEMA_HINT) from None
    except ValueError as error:  # an int of too many digits, half of a surrogate pair
        raise UsageError(f"the schema cannot be written as JSON: {error}", hint=SCHEMA_HINT) from None
    check_size(size, bytes_max, key)
    return text, plain


def check_size(size: int, bytes_max: int, key: str) -> None:
    """Raise UsageError for a schema that is longer than a model is to be told."""
    if size > bytes_max:
        raise UsageError(
            f"the schema of the answer takes more than {bytes_max} bytes of JSON: {key}",
            hint=f"make it shorter, or raise `{key}` in the policy",
        )


class SchemaDocument:
    """A schema whose parts were all looked at. Raises UsageError for what is none, or is not taken."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.draft: Final = draft_of(schema)
        # Without these: a part that names a draft would be read by rules of its own.
        self.root: Final = {
            name: value for name, value in schema.items() if name not in ("$schema", "$id", "id")
        }
        if not self.root.keys() & _ASSERTING:
            raise UsageError(
                "the schema says nothing of the answer: no `type`, no `properties`", hint=SCHEMA_HINT
            )
        self.patterns: Final[dict[str, Pattern]] = {}
        self._schemas: Final[dict[str, Any]] = {}
        self._refers: Final[dict[str, list[str]]] = {}
        wanted: list[tuple[str, str]] = []
        todo: list[tuple[str, object, int]] = [("#", self.root, 0)]
        while todo:
            place, part, depth = todo.pop()
            if depth > SCHEMA_NESTING_MAX:
                raise UsageError(f"the schema is nested deeper than {SCHEMA_NESTING_MAX}")
            self._schemas[place] = part
            refers = self._refers[place] = []
            if not isinstance(part, dict):
                continue  # true and false
            self._check(place, part)
            if isinstance(ref := part.get("$ref"), str):
                target = _target(place, ref)
                wanted.append((place, target))
                refers.append(target)
            for keyword, where, below in _parts(place, part):
                todo.append((where, below, depth + 1))
                if keyword in _IN_PLACE:
                    refers.append(where)
        for place, target in wanted:
            if target not in self._schemas:
                raise UsageError(
                    f"the schema refers to {target[:200]!r} at {place[:200]}, where no schema stands"
                )
        self._check_cycles()

    def target(self, ref: str) -> Any:
        """Return the schema that a part refers to."""
        return self._schemas[unquote(ref)]

    def keywords(self, schema: dict[str, Any]) -> Iterable[tuple[str, Any]]:
        """Return what a schema says, as its draft reads it."""
        if self.draft == "07" and "$ref" in schema:
            return (("$ref", schema["$ref"]),)
        return schema.items()

    def _check(self, place: str, part: dict[str, Any]) -> None:
        for name in _NOT_TAKEN:  # at the root some were taken off
            if name in part:
                raise UsageError(
                    f"the schema has `{name}` at {place[:200]}, which is not taken there",
                    hint="use `$ref` with `#/$defs/…`, and `additionalProperties`",
                )
        patterns = part.get("patternProperties")
        for pattern in [part.get("pattern"), *(patterns if isinstance(patterns, dict) else ())]:
            if isinstance(pattern, str) and pattern not in self.patterns:
                self.patterns[pattern] = _compiled(pattern, place)

    def _check_cycles(self) -> None:
        """Refuse what comes back to itself and has taken nothing of the value apart by then."""
        done: set[str] = set()
        for start in self._refers:
            way: dict[str, Iterator[str]] = {}  # in the order of the way
            at: str | None = start
            while at is not None:
                if at not in done and at not in way:
                    way[at] = iter(self._refers[at])
                following = next(way[at], None) if at in way else None
                if following is None:
                    done.add(at)
                    way.pop(at, None)
                    at = next(reversed(way), None)
                elif following in way:
                    raise UsageError(f"the schema at {following[:200]} is defined by itself alone")
                elif following not in done:
                    at = following


def draft_of(schema: dict[str, Any]) -> str:
    """Return the draft that a schema is written for. Raises UsageError: it names another one."""
    named = schema.get("$schema")
    if named is None:
        return "2020-12"
    draft = DRAFTS.get(named.rstrip("#")) if isinstance(named, str) else None
    if draft is None:
        raise UsageError(f"the schema's `$schema` is not one of {', '.join(DRAFTS)}")
    return draft


def _parts(place: str, part: dict[str, Any]) -> Iterator[tuple[str, str, object]]:
    """Return the schemas right below a schema: their keyword, where they stand, themselves."""
    for keyword, value in part.items():
        if isinstance(value, dict) and keyword in _MAPS:
            for name, below in value.items():
                if isinstance(below, dict | bool):
                    yield keyword, f"{place}/{keyword}/{_escaped(name)}", below
        elif isinstance(value, list) and keyword in _LISTS:
            for at, below in enumerate(value):
                yield keyword, f"{place}/{keyword}/{at}", below
        elif isinstance(value, dict | bool) and keyword in _SCHEMAS:
            yield keyword, f"{place}/{keyword}", value


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _target(place: str, ref: str) -> str:
    pointer = unquote(ref)
    if ref != "#" and not ref.startswith("#/"):
        raise UsageError(
            f"the schema refers to {ref[:200]!r} at {place[:200]}: nothing beside the schema itself is read",
            hint="put what it needs under `$defs`, and refer to it with `#/$defs/…`",
        )
    return pointer


def _compiled(pattern: str, place: str) -> Pattern:
    try:
        return Pattern(pattern)
    except ValueError as error:
        raise UsageError(
            f"the schema's pattern {pattern[:200]!r} at {place[:200]} is none: {str(error)[:200]}",
            hint="patterns are RE2's: look-around and back-references can take for ever",
        ) from None
