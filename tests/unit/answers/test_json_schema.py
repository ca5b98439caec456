"""Checking against a JSON Schema: what is told of a place, which schemas are not taken, and that it ends."""

from __future__ import annotations

from typing import Any

import pytest

from rlm_wasm.answers.json_gate import AnswerRefused
from rlm_wasm.answers.json_schema import CHECK_STEPS_MAX, JsonSchemaReader
from rlm_wasm.errors import UsageError

ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "price": {"type": "number", "minimum": 0},
    },
    "required": ["name"],
    "additionalProperties": False,
}
ORDER = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 1}},
    "required": ["items"],
    "$defs": {"item": ITEM},
}


def problems(schema: dict[str, Any], value: Any) -> tuple[str, ...]:
    try:
        assert JsonSchemaReader(schema).read("", value) is value
    except AnswerRefused as refused:
        return refused.problems
    return ()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"items": [{"name": "a", "price": 1}]}, ()),
        ({"items": [{"name": "a"}, {"name": "b"}, {"name": "c", "price": "9"}]},
         ("$.items[2].price: a string, where number is wanted",)),
        ({"items": []}, ("$.items: 0 of them, where minItems is 1",)),
        ({}, ("$: required, and not there: items",)),
        ([], ("$: an array, where object is wanted",)),
        ({"items": [{"name": "A", "price": -1, "odd key": 1}]},
         ('$.items[0].name: "A", where pattern is "^[a-z]+$"', "$.items[0].price: -1, where minimum is 0",
          "$.items[0]['odd key']: nothing may be here")),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_path(value: Any, told: tuple[str, ...]) -> None:
    assert problems(ORDER, value) == told


def test_of_alternatives_the_one_that_is_meant_is_gone_into() -> None:
    one = {"type": "object", "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}}}
    two = {"type": "object", "properties": {"kind": {"const": "square"}, "a": {"type": "number"}}}
    schema = {"anyOf": [one, two, {"type": "null"}]}
    assert problems(schema, {"kind": "square", "a": "x"}) == ("$.a: a string, where number is wanted",)
    assert problems(schema, 5) == ("$: a number fits none of the 3 alternatives",)
    assert problems({"oneOf": [{"type": "integer"}, {"minimum": 0}]}, 3) == (
        "$: it fits 2 of 2 alternatives, and may fit one alone",
    )


def test_not_more_than_eight_problems_are_told_and_none_is_long() -> None:
    found = problems({"type": "array", "items": {"enum": ["x" * 2_000]}}, ["y" * 5_000] * 100)
    assert len(found) == 8
    assert all(len(each) < 500 for each in found)
    (deep,) = problems({"additionalProperties": {"type": "integer"}}, {"k" * 50_000: "v" * 10_000})
    assert len(deep) < 500


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strnig"}, "no JSON Schema: $.type: it is none of"),
        ({"type": "object", "properties": {"a": 5}}, "$.properties.a: a number, where object or"),
        ({"required": "a"}, "$.required"),
        ({"minLength": -1}, "$.minLength"),
        ({"type": "number", "multipleOf": 0}, "$.multipleOf"),
        ({"anyOf": []}, "$.anyOf"),
        ({}, "says nothing of the answer"),
        ({"name": "str", "age": "int"}, "says nothing of the answer"),
        ({"$ref": "https://example.com/schema.json"}, "nothing beside the schema itself is read"),
        ({"$ref": "file:///etc/passwd"}, "nothing beside the schema itself is read"),
        ({"$ref": "#/$defs/none"}, "where no schema stands"),
        ({"$ref": "#/$defs", "$defs": {"a": {"type": "null"}}}, "where no schema stands"),
        ({"$ref": "#"}, "defined by itself alone"),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#"}]}}}, "by itself alone"),
        ({"type": "string", "pattern": "(?=a)"}, "is none"),
        ({"type": "string", "pattern": "(a"}, "is none"),
        ({"unevaluatedProperties": False, "type": "object"}, "`unevaluatedProperties` at #"),
        ({"type": "object", "properties": {"a": {"$dynamicRef": "#x"}}}, "`$dynamicRef` at #/properties/a"),
        ({"type": "object", "properties": {"a": {"$id": "x", "type": "null"}}}, "`$id` at #/properties/a"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "type": "null"}, "`$schema` is not one of"),
    ],
)  # fmt: skip
def test_what_is_no_schema_or_not_taken_is_told_up_front(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        JsonSchemaReader(schema)
    assert words in caught.value.message


def test_a_schema_that_is_too_deep_is_refused() -> None:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(60):
        schema = {"type": "array", "items": schema}
    with pytest.raises(UsageError, match="deeper than 32"):
        JsonSchemaReader(schema)


def test_words_of_schemas_are_only_names_where_values_stand() -> None:
    schema = {
        "type": "object",
        "properties": {"$ref": {"type": "integer"}, "$id": {"enum": [{"$ref": "http://x"}, 1]}},
    }
    assert problems(schema, {"$ref": 1, "$id": {"$ref": "http://x"}}) == ()
    assert problems(schema, {"$ref": "x"}) == ("$['$ref']: a string, where integer is wanted",)


def test_a_draft_07_schema_is_read_as_one() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.com/pair",
        "items": [{"type": "integer"}, {"$ref": "#/definitions/t"}],
        "additionalItems": False,
        "definitions": {"t": {"type": "string"}},
    }
    assert problems(schema, [1, "a"]) == ()
    assert problems(schema, [1, 2, 3]) == (
        "$[1]: a number, where string is wanted",
        "$[2]: nothing may be here",
    )


TREE = {"type": "object", "properties": {"next": {"$ref": "#"}, "v": {"type": "integer"}}, "required": ["v"]}


def nested(levels: int, leaf: Any) -> Any:
    for _ in range(levels):
        leaf = {"v": 1, "next": leaf}
    return leaf


def test_a_schema_that_holds_itself_checks_all_levels() -> None:
    assert problems(TREE, nested(90, {"v": 2})) == ()
    (told,) = problems(TREE, nested(90, {"v": "x"}))
    assert told.startswith("$.next.next.next.")
    assert told.endswith(": a string, where integer is wanted")


@pytest.mark.threat("T-351")
def test_alternatives_that_hold_themselves_do_not_double_with_each_level() -> None:
    """Each of them tried at each of 95 levels would be 2**95 checks; there are 250,000 steps."""
    member = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    schema = {"anyOf": [{**member, "title": "a"}, {**member, "title": "b"}, {"type": "integer"}]}
    assert problems(schema, nested(95, 3)) == ()
    assert problems(schema, nested(95, "x")) == ("$: an object fits none of the 3 alternatives",)


@pytest.mark.threat("T-351")
@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "items": {"type": "integer"}}, [1] * (CHECK_STEPS_MAX + 1)),
        ({"type": "array", "uniqueItems": True}, [[n] for n in range(CHECK_STEPS_MAX)]),
        ({"allOf": [{"uniqueItems": True} for _ in range(300)]}, list(range(1_000))),
        ({"patternProperties": {f"^{n}": {} for n in range(400)}}, {f"k{n}": 1 for n in range(1_000)}),
        ({"items": {"enum": [[n] for n in range(400)]}}, [[399] for _ in range(2_000)]),
    ],
    ids=["items", "uniqueItems", "uniqueItems many times", "patterns", "enum"],
)
def test_work_is_bounded_and_what_goes_beyond_is_told(schema: dict[str, Any], value: Any) -> None:
    assert problems(schema, value) == (
        f"$: the answer takes more than {CHECK_STEPS_MAX} steps to check: make it smaller",
    )


@pytest.mark.threat("T-351")
def test_numbers_of_any_size_are_compared_and_divided() -> None:
    schema = {"type": "number", "multipleOf": 0.1, "maximum": 1e300}
    assert problems(schema, 0.3) == ()
    assert problems(schema, 10**299) == ()
    (told,) = problems(schema, 10**4_200)
    assert "where maximum is" in told


@pytest.mark.threat("T-351")
def test_a_pattern_that_would_take_for_ever_does_not() -> None:
    assert problems({"type": "string", "pattern": "^(a+)+$"}, "a" * 60_000 + "!") != ()


def test_equal_is_what_json_schema_takes_for_equal() -> None:
    assert problems({"const": 1}, 1.0) == ()
    assert problems({"const": 1}, True) != ()
    assert problems({"enum": [[1, {"a": 2}]]}, [1.0, {"a": 2.0}]) == ()
    assert problems({"uniqueItems": True}, [1, 1.0]) == ("$: two of its items are the same",)
    assert problems({"uniqueItems": True}, [1, True, "1"]) == ()
    assert problems({"type": "integer"}, 3.0) == ()
    assert problems({"type": "integer"}, True) != ()
