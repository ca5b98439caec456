"""`JsonSchemaReader`: a value checked against a JSON Schema, in a bounded number of steps.

Alternatives that hold themselves double the work with each level of a value, and the value is a guest's. So
what was found of a part of the schema and a part of the value is remembered, and every step is counted.
Nothing is fetched, and no pattern takes more than linear time. The package `jsonschema` has no such bound:
what comes of both is compared in `tests/property/test_json_schema.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Any, Final

from rlm_wasm.answers.json_gate import AnswerRefused
from rlm_wasm.answers.json_path import problem
from rlm_wasm.answers.schema_document import SCHEMA_HINT, SchemaDocument
from rlm_wasm.conversation.typed_answer import PROBLEMS_MAX
from rlm_wasm.errors import UsageError

# A step is a part of a schema at a part of a value, or an item that one goes through.
CHECK_STEPS_MAX: Final = 250_000
_QUOTED_CHARS_MAX: Final = 120
Place = tuple[str | int, ...]


class JsonSchemaReader:
    """Checks values against one schema. Raises UsageError: the schema is none, or one that is not taken."""

    def __init__(self, schema: dict[str, Any]) -> None:
        try:
            for place, words in islice(_Check(_OF_SCHEMAS).problems(schema), 1):
                raise UsageError(f"no JSON Schema: {problem(place, words)}", hint=SCHEMA_HINT)
        except (_TooManySteps, RecursionError):
            raise UsageError("the schema is too deep, or too large, to be checked") from None
        self._document: Final = SchemaDocument(schema)

    def read(self, text: str, value: Any) -> Any:
        """Return the value. Raises AnswerRefused: it does not fit, or cannot be checked within the bounds."""
        try:
            found = islice(_Check(self._document).problems(value), PROBLEMS_MAX)
            problems = [problem(place, words) for place, words in found]
        except _TooManySteps:
            problems = [f"$: the answer takes more than {CHECK_STEPS_MAX} steps to check: make it smaller"]
        except RecursionError:
            problems = ["$: the answer is nested too deep to be checked against the schema"]
        if problems:
            raise AnswerRefused(*problems)
        return value


class _TooManySteps(Exception):
    pass


class _Check:
    """One check of one value."""

    def __init__(self, document: SchemaDocument) -> None:
        self.document: Final = document
        self._left = CHECK_STEPS_MAX
        # Of a part of the schema and a list or object of the value, both by identity: they outlive this.
        self._known: Final[dict[tuple[int, int], bool]] = {}

    def take(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _TooManySteps

    def problems(self, value: Any) -> Iterator[tuple[Place, str]]:
        root = self.document.root
        if not self.fits(root, value):
            yield from self._problems(root, value, ())

    def fits(self, schema: Any, value: Any) -> bool:
        """Say whether a value is what a schema says."""
        if isinstance(schema, bool):
            return schema
        self.take(1)
        if not isinstance(value, list | dict):
            return self._fits(schema, value)
        key = id(schema), id(value)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._fits(schema, value)
        return known

    def _fits(self, schema: dict[str, Any], value: Any) -> bool:
        for keyword, operand in self.document.keywords(schema):
            if keyword in _CHILDREN:
                for _, below, item in _CHILDREN[keyword](self, operand, value, schema):
                    if not self.fits(below, item):
                        return False
            elif keyword in _TESTS and not _TESTS[keyword](self, operand, value, schema):
                return False
        return True

    def _problems(self, schema: Any, value: Any, place: Place) -> Iterator[tuple[Place, str]]:
        """Say what is wrong with a value that does not fit: of each alternative at most one is gone into."""
        if isinstance(schema, bool):
            yield place, "nothing may be here"
            return
        for keyword, operand in self.document.keywords(schema):
            if keyword in _CHILDREN:
                for step, below, item in _CHILDREN[keyword](self, operand, value, schema):
                    if not self.fits(below, item):
                        yield from self._problems(below, item, place if step is None else (*place, step))
            elif keyword in _TESTS and not _TESTS[keyword](self, operand, value, schema):
                if keyword in ("anyOf", "oneOf"):
                    yield from self._alternatives(keyword, operand, value, place)
                else:
                    yield place, _words(keyword, operand, value)

    def _alternatives(
        self, keyword: str, operand: list[Any], value: Any, place: Place
    ) -> Iterator[tuple[Place, str]]:
        fitting = sum(self.fits(each, value) for each in operand)
        meant = [each for each in operand if self._means(each, value)]
        if not fitting and len(meant) == 1:
            yield from self._problems(meant[0], value, place)
        elif fitting:
            yield place, f"it fits {fitting} of {len(operand)} alternatives, and may fit one alone"
        else:
            yield place, f"{_kind(value)} fits none of the {len(operand)} alternatives"

    def _means(self, schema: Any, value: Any) -> bool:
        """Say whether an alternative is for values of this kind, by what tells kinds apart."""
        while isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            self.take(1)
            schema = self.document.target(schema["$ref"])
        if not isinstance(schema, dict):
            return schema is True
        if "type" in schema and not _is_type(self, schema["type"], value, schema):
            return False
        if not isinstance(value, dict):
            return True
        parts = schema.get("properties", {})
        self.take(len(parts))
        return all(
            self.fits({word: part[word]}, value[name])
            for name, part in parts.items()
            for word in ("const", "enum")
            if isinstance(part, dict) and word in part and name in value
        )

    def text_of(self, value: Any) -> str:
        """Return a text that equal values have in common, by what JSON Schema takes for equal."""
        return json.dumps(self._normal(value), sort_keys=True)

    def _normal(self, value: Any) -> Any:
        self.take(1)
        match value:
            case list():
                return [self._normal(item) for item in value]
            case dict():
                return {key: self._normal(item) for key, item in value.items()}
            case float() if value.is_integer():
                return int(value)
        return value


# -- keywords about the parts of a value, or about all of it by other schemas: where, what, of what ----

_Child = tuple[str | int | None, Any, Any]


def _properties(check: _Check, operand: Any, value: Any, schema: Any) -> Iterator[_Child]:
    if isinstance(value, dict):
        check.take(len(operand))
        for name, below in operand.items():
            if name in value:
                yield name, below, value[name]


def _pattern_properties(check: _Check, operand: Any, value: Any, schema: Any) -> Iterator[_Child]:
    if isinstance(value, dict):
        check.take(len(operand) * len(value))
        for source, below in operand.items():
            pattern = check.document.patterns[source]
            for name, item in value.items():
                if pattern.search(name) is not None:
                    yield name, below, item


def _additional_properties(check: _Check, operand: Any, value: Any, schema: Any) -> Iterator[_Child]:
    if isinstance(value, dict):
        known = schema.get("properties", {})
        patterns = [check.document.patterns[source] for source in schema.get("patternProperties", {})]
        check.take(len(value) * (1 + len(patterns)))
        for name, item in value.items():
            if name not in known and not any(pattern.search(name) for pattern in patterns):
                yield name, operand, item


def _property_names(check: _Check, operand: Any, value: Any, schema: Any) -> Iterator[_Child]:
    if isinstance(value, dict):
        check.take(len(value))
        yield from ((name, operand, name) for name in value)


def _items(check: _Check, operand: Any, value: Any, schema: Any) -> Iterator[_Child]:
    if not isinstance(value, list):
        return
    check.take(len(value))
    if isinstance(operand, list):  # as drafts before 2020-12 have it
        yield from ((at, below, item) for at, (below, item) in enumerate(zip(operand, value, strict=False)))
    else:
        first = len(schema.get("prefixItems", ()))
        yield from ((at, operand, item) for at, item in enumerate(islice(value, first, None), first))


def _additional_items(check: _Check, operand: Any, value: Any, schema: Any) -> Iterator[_Child]:
    before = schema.get("items")
    if isinstance(value, list) and isinstance(before, list):
        check.take(len(value))
        first = len(before)
        yield from ((at, operand, item) for at, item in enumerate(islice(value, first, None), first))


def _all_of(check: _Check, operand: Any, value: Any, schema: Any) -> Iterator[_Child]:
    yield from ((None, below, value) for below in operand)


def _ref(check: _Check, operand: Any, value: Any, schema: Any) -> Iterator[_Child]:
    yield None, check.document.target(operand), value


def _if(check: _Check, operand: Any, value: Any, schema: Any) -> Iterator[_Child]:
    yield None, schema.get("then" if check.fits(operand, value) else "else", True), value


def _dependent(check: _Check, operand: Any, value: Any, schema: Any) -> Iterator[_Child]:
    if isinstance(value, dict):
        check.take(len(operand))
        for name, below in operand.items():
            if name in value:
                yield None, {"required": below} if isinstance(below, list) else below, value


_CHILDREN: Final[dict[str, Callable[[_Check, Any, Any, Any], Iterator[_Child]]]] = {
    "$ref": _ref,
    "additionalItems": _additional_items,
    "additionalProperties": _additional_properties,
    "allOf": _all_of,
    "dependencies": _dependent,
    "dependentRequired": _dependent,
    "dependentSchemas": _dependent,
    "if": _if,
    "items": _items,
    "patternProperties": _pattern_properties,
    "prefixItems": _items,
    "properties": _properties,
    "propertyNames": _property_names,
}


# -- keywords about a value as it is ------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"


_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "null": lambda value: value is None,
    "number": _is_number,
    "object": lambda value: isinstance(value, dict),
    "string": lambda value: isinstance(value, str),
}


def _is_type(check: _Check, operand: Any, value: Any, schema: Any) -> bool:
    names = [operand] if isinstance(operand, str) else operand
    return any(_TYPES[name](value) for name in names)


def _is_one_of(check: _Check, operand: Any, value: Any, schema: Any) -> bool:
    check.take(len(operand))
    if isinstance(value, str):
        return value in operand
    text = check.text_of(value)
    return any(check.text_of(each) == text for each in operand)


def _is_unique(check: _Check, operand: Any, value: Any, schema: Any) -> bool:
    # As text: numbers that are made to have one hash would take the square of their number.
    if not operand or not isinstance(value, list):
        return True
    return len({check.text_of(item) for item in value}) == len(value)


def _contains(check: _Check, operand: Any, value: Any, schema: Any) -> bool:
    if not isinstance(value, list):
        return True
    check.take(len(value))
    found = sum(check.fits(operand, item) for item in value)
    most: int | None = schema.get("maxContains")
    return bool(schema.get("minContains", 1) <= found) and (most is None or found <= most)


def _has_multiple(check: _Check, operand: Any, value: Any, schema: Any) -> bool:
    # As they are written: 0.3 is three times 0.1.
    return not _is_number(value) or Fraction(str(value)) % Fraction(str(operand)) == 0


def _bound(kind: Callable[[Any], bool], holds: Callable[[Any, Any], bool]) -> Any:
    return lambda check, operand, value, schema: not kind(value) or holds(value, operand)


_TEXT, _LIST, _OBJECT = _TYPES["string"], _TYPES["array"], _TYPES["object"]
_TESTS: Final[dict[str, Callable[[_Check, Any, Any, Any], bool]]] = {
    "anyOf": lambda check, operand, value, schema: any(check.fits(each, value) for each in operand),
    "const": lambda check, operand, value, schema: check.text_of(value) == check.text_of(operand),
    "contains": _contains,
    "enum": _is_one_of,
    "exclusiveMaximum": _bound(_is_number, lambda value, most: value < most),
    "exclusiveMinimum": _bound(_is_number, lambda value, least: value > least),
    "maxItems": _bound(_LIST, lambda value, most: len(value) <= most),
    "maxLength": _bound(_TEXT, lambda value, most: len(value) <= most),
    "maxProperties": _bound(_OBJECT, lambda value, most: len(value) <= most),
    "maximum": _bound(_is_number, lambda value, most: value <= most),
    "minItems": _bound(_LIST, lambda value, least: len(value) >= least),
    "minLength": _bound(_TEXT, lambda value, least: len(value) >= least),
    "minProperties": _bound(_OBJECT, lambda value, least: len(value) >= least),
    "minimum": _bound(_is_number, lambda value, least: value >= least),
    "multipleOf": _has_multiple,
    "not": lambda check, operand, value, schema: not check.fits(operand, value),
    "oneOf": lambda check, operand, value, schema: sum(check.fits(each, value) for each in operand) == 1,
    "pattern": lambda check, operand, value, schema: (
        not isinstance(value, str) or check.document.patterns[operand].search(value) is not None
    ),
    "required": lambda check, operand, value, schema: (
        not isinstance(value, dict) or all(name in value for name in operand)
    ),
    "type": _is_type,
    "uniqueItems": _is_unique,
}


def _words(keyword: str, operand: Any, value: Any) -> str:
    match keyword:
        case "type":
            wanted = operand if isinstance(operand, str) else " or ".join(operand)
            return f"{_kind(value)}, where {wanted} is wanted"
        case "required":
            missing = ", ".join(name for name in operand if name not in value)
            return f"required, and not there: {_cut(missing)}"
        case "const":
            return f"it is not {_cut(json.dumps(operand, ensure_ascii=False))}"
        case "enum":
            return f"it is none of {_cut(json.dumps(operand, ensure_ascii=False), 300)}"
        case "not":
            return "it fits what it must not fit"
        case "contains":
            return "too few or too many of its items fit `contains`"
        case "uniqueItems":
            return "two of its items are the same"
        case "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties":
            return f"{len(value)} of them, where {keyword} is {operand}"
    return f"{_cut(json.dumps(value))}, where {keyword} is {_cut(json.dumps(operand))}"


def _cut(text: str, most: int = _QUOTED_CHARS_MAX) -> str:
    return text if len(text) <= most else text[:most] + "…"


# -- what a schema looks like ---------------------------------------------------------------------------

_ONE: Final = {"$ref": "#/$defs/schema"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NUMBER: Final = {"type": "number"}
_NAMES: Final = {"type": "array", "items": {"type": "string"}}
_MANY: Final = {"type": "array", "items": _ONE, "minItems": 1}
_NAMED: Final = {"type": "object", "additionalProperties": _ONE}
_KINDS: Final = {"enum": sorted(_TYPES)}
_OF_SCHEMAS: Final = SchemaDocument(
    {
        "type": "object",
        "$ref": "#/$defs/schema",
        "$defs": {
            "schema": {
                "type": ["object", "boolean"],
                "properties": {
                    **dict.fromkeys(
                        ("additionalItems", "additionalProperties", "contains", "else", "if", "not"), _ONE
                    ),
                    **dict.fromkeys(("propertyNames", "then"), _ONE),
                    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _MANY),
                    **dict.fromkeys(("$defs", "definitions", "dependentSchemas"), _NAMED),
                    **dict.fromkeys(("patternProperties", "properties"), _NAMED),
                    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), _COUNT),
                    **dict.fromkeys(("minProperties", "maxProperties"), _COUNT),
                    **dict.fromkeys(("minContains", "maxContains"), _COUNT),
                    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
                    "multipleOf": {"type": "number", "exclusiveMinimum": 0},
                    "items": {"anyOf": [_ONE, {"type": "array", "items": _ONE}]},
                    "dependencies": {
                        "type": "object",
                        "additionalProperties": {"anyOf": [_ONE, _NAMES]},
                    },
                    "dependentRequired": {"type": "object", "additionalProperties": _NAMES},
                    "required": _NAMES,
                    "uniqueItems": {"type": "boolean"},
                    "pattern": {"type": "string"},
                    "$ref": {"type": "string"},
                    "enum": {"type": "array"},
                    "type": {"anyOf": [_KINDS, {"type": "array", "items": _KINDS, "minItems": 1}]},
                },
            }
        },
    }
)
