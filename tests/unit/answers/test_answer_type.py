"""What a caller may give as `output`, what is made of an answer by it, and what is refused up front."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Literal, Optional, Union

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.answers.answer_type import AnswerType
from rlm_wasm.conversation.typed_answer import AnswerForm, FittingAnswer, UnfitAnswer
from rlm_wasm.errors import UsageError

JSON, TEXT, WRITTEN = AnswerForm
SCHEMA_MOST, VALUE_MOST = 16_384, 65_536


@dataclasses.dataclass
class Item:
    name: str
    price: float


class Order(pydantic.BaseModel):
    items: list[Item]
    due: date | None = None
    either: int | Item = 1


class Chain(pydantic.BaseModel):
    v: int
    next: Optional[Chain] = None  # noqa: UP045 - as people write it


class Left(pydantic.BaseModel):
    below: Union[Left, Right, int]  # noqa: UP007


class Right(pydantic.BaseModel):
    below: Union[Left, Right, int]  # noqa: UP007


class Add(pydantic.BaseModel):
    kind: Literal["add"]
    of: list[Term]


class Number(pydantic.BaseModel):
    kind: Literal["number"]
    value: int


Term = Annotated[Add | Number, pydantic.Field(discriminator="kind")]
Left.model_rebuild()
Add.model_rebuild()


def made(output: Any) -> AnswerType:
    return AnswerType.of(output, SCHEMA_MOST)


def check(output: Any, text: str, form: AnswerForm = JSON) -> Any:
    """Return the value, or the problems as a tuple."""
    found = made(output).check(text, form, VALUE_MOST)
    return found.value if isinstance(found, FittingAnswer) else found.problems


@pytest.mark.parametrize(
    ("output", "text", "value"),
    [
        (list[int], "[1,2]", [1, 2]),
        (dict, '{"a":[1]}', {"a": [1]}),
        (dict[str, list[float]], '{"a":[1]}', {"a": [1.0]}),
        (Item, '{"name":"a","price":2}', Item("a", 2.0)),
        (Order, '{"items":[{"name":"a","price":2}],"due":"2024-02-29"}',
         Order(items=[Item("a", 2.0)], due=date(2024, 2, 29))),
        (set[int], "[1,1,2]", {1, 2}),
        (bool, "true", True),
        (int | None, "null", None),
        (Chain, '{"v":1,"next":{"v":2}}', Chain(v=1, next=Chain(v=2))),
        (pydantic.TypeAdapter(list[int]), "[3]", [3]),
        ({"type": "object", "required": ["n"]}, '{"n":1,"m":[null]}', {"n": 1, "m": [None]}),
        ({"type": ["integer", "null"]}, "null", None),
    ],
)  # fmt: skip
def test_an_answer_is_the_value_that_is_wanted(output: Any, text: str, value: Any) -> None:
    found = check(output, text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("output", "text", "problems"),
    [
        (list[int], '[1,null]', ("$[1]: Input should be a valid integer",)),
        (Order, '{"items":[{"name":"a","price":1},{"name":"b"}]}', ("$.items[1].price: Field required",)),
        (Order, '{"items":[],"either":{"name":1,"price":1}}',
         ("$.either: Input should be a valid integer (as int)",
          "$.either.name: Input should be a valid string (as Item)")),
        (dict[str, int], '{"odd key":"x"}',
         ("$['odd key']: Input should be a valid integer, unable to parse string as an integer",)),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}},
         '{"a":[1,2,"x"]}', ("$.a[2]: a string, where integer is wanted",)),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_its_json_path(
    output: Any, text: str, problems: tuple[str, ...]
) -> None:
    assert check(output, text) == problems


@pytest.mark.parametrize(
    ("output", "text", "form", "value"),
    [
        (str, "42", TEXT, "42"),
        (str, "42", WRITTEN, "42"),
        (int, "42", TEXT, 42),
        (int, "42", WRITTEN, 42),
        (int | str, "42", TEXT, "42"),
        (int | str, "42", WRITTEN, 42),
        (date, "2024-02-29", TEXT, date(2024, 2, 29)),
        (list[int], "[1]", TEXT, [1]),
        (list[int], "```json\n[1]\n```", WRITTEN, [1]),
        (str, "Paris is nice", WRITTEN, "Paris is nice"),
        (Literal["yes", "no"], "yes", WRITTEN, "yes"),
        ({"enum": ["yes", "no"]}, "yes", TEXT, "yes"),
        ({"type": "string"}, '{"a":1}', TEXT, '{"a":1}'),
        (dict, '{"a":1}', TEXT, {"a": 1}),
    ],
)
def test_a_text_is_what_it_says_or_what_its_json_says(
    output: Any, text: str, form: AnswerForm, value: Any
) -> None:
    assert check(output, text, form) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{'a': 1}", "$: the answer is no JSON: Expecting property name"),
        ("about five", "$: Input should be an object"),
        ('{"a": 1, "a": 2}', "has the key 'a' twice"),
    ],
)
def test_of_a_text_the_reading_that_was_meant_is_told(text: str, words: str) -> None:
    (told,) = check(dict, text, TEXT)
    assert words in told


def test_a_text_may_be_as_long_as_its_utf8() -> None:
    text = "\u6f22" * 20_000
    assert check(str, text, TEXT) == check({"type": "string"}, text, TEXT) == text
    (told,) = check(str, text + "\u6f22" * 2_000, TEXT)
    assert "more than 65536 bytes, which is cell.result_bytes_max" in told
    (told,) = check(str, "\ud800", TEXT)
    assert "half of a surrogate pair" in told


def test_a_json_value_is_not_read_as_a_text_of_its_own() -> None:
    assert check(str, "5") == ("$: Input should be a valid string",)
    assert check(str, '"5"') == "5"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (5, "a value of type int, and no type"),
        ("Order", "a value of type str"),
        ([int], "a value of type list"),
        (lambda: 1, "a value of type function"),
        (print, "no type"),
        (Callable[[], int], "no type that JSON can be checked against"),
        (type("Plain", (), {}), "no type that JSON can be checked against"),
        ({"a": {1}}, "the schema is no JSON: output['a'] is a set"),
        ({"type": "string", "description": "x" * 20_000}, "guidance.instructions_bytes_max"),
        ({"type": "string", "enum": ["x"] * 10_000_000}, "guidance.instructions_bytes_max"),
        ({"type": "string", "const": "\ud800"}, "cannot be written as JSON"),
        (Literal[tuple(f"choice {n}" for n in range(2_000))], "guidance.instructions_bytes_max"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_neither_a_type_nor_a_schema_or_too_long_is_refused(output: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(output)
    assert words in caught.value.message
    assert caught.value.hint
    assert len(caught.value.message) < 500


def test_a_schema_that_holds_itself_as_an_object_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["properties"] = {"a": schema}
    with pytest.raises(UsageError, match="nested deeper than"):
        made(schema)


@pytest.mark.threat("T-351")
def test_a_type_that_would_be_checked_for_ever_is_refused_and_one_that_is_told_apart_is_not() -> None:
    for output in (Left, list[Right], dict[str, Left | None]):
        with pytest.raises(UsageError, match="checking that doubles with each level") as caught:
            made(output)
        assert "discriminator" in str(caught.value.hint)
    deep = {"kind": "number", "value": 1}
    for _ in range(40):
        deep = {"kind": "add", "of": [deep]}
    assert check(Add, json.dumps(deep)).kind == "add"


@pytest.mark.threat("T-351")
@pytest.mark.parametrize("output", [Any, dict, list[int], Order, {"type": ["array", "object"]}], ids=str)
@pytest.mark.parametrize("form", list(AnswerForm))
@pytest.mark.parametrize(
    "text",
    ["[" + "1," * 15_000_000 + "1]", "[" * 100_000 + "]" * 100_000, "[NaN]", "[1" + "0" * 100_000 + "]",
     '{"a":1,"a":2}', '["\\ud800"]'],
    ids=["30 MB", "depth", "NaN", "digits", "twice", "surrogate"],
)  # fmt: skip
def test_a_hostile_answer_is_no_value(output: Any, form: AnswerForm, text: str) -> None:
    found = made(output).check(text, form, VALUE_MOST)
    if output is Any and form is not JSON and len(text) < 20:
        assert found == FittingAnswer(text)  # the text that it is
        return
    assert isinstance(found, UnfitAnswer)
    assert sum(map(len, found.problems)) < 5_000


def test_what_a_validator_raises_that_is_no_value_error_goes_through() -> None:
    class Odd(pydantic.BaseModel):
        a: int

        @pydantic.field_validator("a")
        @classmethod
        def check(cls, value: int) -> int:
            raise (ValueError("not this one") if value else KeyError("a bug"))

    assert check(Odd, '{"a":1}') == ("$.a: Value error, not this one",)
    with pytest.raises(KeyError):
        check(Odd, '{"a":0}')


def test_what_is_wrong_does_not_carry_the_answer_in_its_chain() -> None:
    from rlm_wasm.answers.json_gate import AnswerRefused
    from rlm_wasm.answers.python_type import PythonTypeReader

    with pytest.raises(AnswerRefused) as caught:
        PythonTypeReader(list[int]).read('["secret"]', ["secret"])
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@given(st.lists(st.integers() | st.text() | st.none() | st.floats()), st.sampled_from(AnswerForm))
def test_what_fits_is_of_the_type_and_what_does_not_says_where(value: list[Any], form: AnswerForm) -> None:
    found = made(list[int]).check(json.dumps(value), form, VALUE_MOST)
    if isinstance(found, FittingAnswer):
        assert all(type(each) is int for each in found.value)
        assert len(found.value) == len(value)
    else:
        assert all(each.startswith("$") for each in found.problems)


def test_a_recorded_schema_is_the_same_again() -> None:
    first = made({"type": "array", "items": {"type": "integer"}})
    again = AnswerType.recorded(first.schema)
    assert (again.kind, again.schema) == ("schema", first.schema)
    assert again.check("[1]", JSON, VALUE_MOST) == FittingAnswer([1])
    for damaged in ("[]", "{", '{"type":'):
        with pytest.raises(UsageError):
            AnswerType.recorded(damaged)
