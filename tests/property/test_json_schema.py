"""Our reading of JSON Schema beside that of the package `jsonschema`, on random schemas and values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.answers.json_gate import AnswerRefused
from rlm_wasm.answers.json_schema import JsonSchemaReader
from rlm_wasm.errors import UsageError

jsonschema = pytest.importorskip("jsonschema")

SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -2.5, "", "a", "ab", "b1"])
)
NAMES = st.sampled_from(["a", "b", "ab", "c"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)
SMALL = st.integers(0, 3)
KIND = st.sampled_from(["array", "boolean", "integer", "null", "number", "object", "string"])
PATTERN = st.sampled_from(["a", "^a", "b$", "^[ab]+$", "[0-9]"])
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "type": KIND | st.lists(KIND, min_size=1, max_size=3, unique=True),
    "const": VALUES,
    "enum": st.lists(VALUES, min_size=1, max_size=4),
    "minimum": st.integers(-2, 2),
    "maximum": st.integers(-2, 2),
    "exclusiveMinimum": st.integers(-2, 2),
    "exclusiveMaximum": st.integers(-2, 2),
    "multipleOf": st.sampled_from([1, 2, 0.5]),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), SMALL
    ),
    "pattern": PATTERN,
    "required": st.lists(NAMES, max_size=2, unique=True),
    "uniqueItems": st.booleans(),
    "minContains": SMALL,
    "maxContains": SMALL,
    "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=2, unique=True), max_size=2),
    # Each takes one step into the value, so that none of them is defined by itself alone.
    "$ref": st.sampled_from(["#/$defs/list", "#/$defs/object"]),
}


def of_schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(NAMES, inner, max_size=2)
    parts = {
        **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), some),
        **dict.fromkeys(("not", "if", "then", "else", "contains", "items"), inner),
        **dict.fromkeys(("additionalProperties", "propertyNames"), inner),
        **dict.fromkeys(("properties", "dependentSchemas"), named),
        "patternProperties": st.dictionaries(PATTERN, inner, max_size=2),
    }
    return st.fixed_dictionaries({}, optional=PLAIN | parts).map(few) | st.booleans()


def few(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the first keywords of a schema: with all of them at once nothing fits."""
    return dict(list(schema.items())[-4:])


SCHEMAS = st.recursive(
    st.fixed_dictionaries({}, optional=PLAIN).map(few) | st.booleans(), of_schemas, max_leaves=6
)
DEFS = {
    "list": {"type": ["array", "integer"], "items": {"$ref": "#/$defs/list"}, "maxItems": 2},
    "object": {"additionalProperties": {"$ref": "#/$defs/object"}, "type": ["object", "string"]},
}


def fits_ours(schema: dict[str, Any], value: Any) -> bool:
    try:
        JsonSchemaReader(schema).read("", value)
    except AnswerRefused:
        return False
    return True


def test_the_same_values_fit() -> None:
    seen: Counter[bool] = Counter()

    @settings(deadline=None, max_examples=120)
    @given(SCHEMAS, VALUES)
    def compare(part: Any, value: Any) -> None:
        schema = {"allOf": [part], "$defs": DEFS}
        wanted = not list(jsonschema.Draft202012Validator(schema).iter_errors(value))
        fits = fits_ours(schema, value)
        assert fits is wanted
        seen[fits] += 1

    compare()
    assert min(seen[True], seen[False]) > 10, seen


@settings(deadline=None, max_examples=80)
@given(st.dictionaries(st.sampled_from(sorted(PLAIN)) | st.text(max_size=3), VALUES, max_size=3))
def test_what_is_no_schema_is_refused_wherever_the_package_refuses_it(schema: dict[str, Any]) -> None:
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        is_schema = True
    except jsonschema.SchemaError:
        is_schema = False
    try:
        JsonSchemaReader(schema)
    except UsageError:
        return
    assert is_schema
