"""`PythonTypeReader`: a value read as a Python type, by pydantic, which also writes its JSON Schema."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rlm_wasm.answers.json_gate import AnswerRefused
from rlm_wasm.answers.json_path import parts_within, problem
from rlm_wasm.conversation.typed_answer import PROBLEMS_MAX
from rlm_wasm.errors import UsageError

_HINT: Final = "give a type such as list[int], a dataclass or a pydantic model, or a JSON Schema as a dict"
_NO_TYPES: Final = (str, int, float, bytes, list, tuple, set, frozenset)
_REF: Final = "#/$defs/"


class PythonTypeReader:
    """Reads values as one type. Raises UsageError: it is none, or none that JSON can be checked against."""

    def __init__(self, output: Any) -> None:
        # Loaded by whoever wants a typed answer.
        import pydantic
        from pydantic.errors import PydanticUserError
        from pydantic.json_schema import GenerateJsonSchema

        class ShortSchema(GenerateJsonSchema):
            def field_title_should_be_set(self, schema: Any) -> bool:
                return False  # it says the field's name again

        if inspect.isroutine(output) or isinstance(output, _NO_TYPES):
            raise UsageError(f"output is a value of type {type(output).__name__}, and no type", hint=_HINT)
        self._invalid: Final = pydantic.ValidationError
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of a default that has no JSON form
                adapter = output if isinstance(output, pydantic.TypeAdapter) else pydantic.TypeAdapter(output)
                self.schema: Final[dict[str, Any]] = adapter.json_schema(schema_generator=ShortSchema)
        except (PydanticUserError, TypeError, NameError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"output is no type that JSON can be checked against: {str(error).splitlines()[0]}",
                hint=_HINT,
            ) from error
        self._adapter: Final[Any] = adapter
        _check_alternatives(self.schema)

    def read(self, text: str, value: Any) -> Any:
        """Return the value as the type has it. Raises AnswerRefused: it is no such.

        Whatever else a validator of the type's own raises goes through.
        """
        try:
            return self._adapter.validate_json(text)
        except self._invalid as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
        # Outside the handler: the library's error, which holds the answer, stays out of the chain.
        raise AnswerRefused(*_problems(found, value))


def _problems(found: list[Any], value: Any) -> Iterator[str]:
    for each in found[:PROBLEMS_MAX]:
        parts, tried = parts_within(value, each["loc"], absent=each["type"] == "missing")
        tried_as = f" (as {', '.join(tried)})" if tried else ""
        yield problem(parts, each["msg"] + tried_as)


# -- what could not be checked in bounded time ------------------------------------------------------


def _check_alternatives(schema: Mapping[str, Any]) -> None:
    """Refuse a union, without a discriminator, of two objects or two arrays that each hold it again.

    All members are tried at each level of a value, so that the work doubles with each: forty never end.
    """
    defs = schema.get("$defs", {})
    reached = {name: _reached(name, defs) for name in defs}
    for name, part in [("", schema), *defs.items()]:
        around = {name} if name else set()
        for union in _unions(part):
            again: dict[str, int] = {}
            for member in union:
                names = set(_names_in(member))
                names |= {further for each in names for further in reached.get(each, ())}
                if around & names:
                    kind = _kind_of(member, defs)
                    again[kind] = again.get(kind, 0) + 1
            if again.get("object", 0) > 1 or again.get("array", 0) > 1:
                raise UsageError(
                    f"output holds itself through a union of several members ({name}): checking that doubles "
                    "with each level of a value",
                    hint="tell the members apart: pydantic.Field(discriminator=…), or one model for all",
                )


def _unions(part: Any) -> Iterator[list[Any]]:
    todo = [part]
    while todo:
        at = todo.pop()
        if isinstance(at, list):
            todo += at
        elif isinstance(at, dict):
            for word in ("anyOf", "oneOf"):
                if isinstance(at.get(word), list) and "discriminator" not in at:
                    yield at[word]
            todo += [below for key, below in at.items() if key != "$defs"]


def _names_in(part: Any) -> Iterator[str]:
    todo = [part]
    while todo:
        at = todo.pop()
        if isinstance(at, list):
            todo += at
        elif isinstance(at, dict):
            if isinstance(ref := at.get("$ref"), str) and ref.startswith(_REF):
                yield ref.removeprefix(_REF)
            todo += [below for key, below in at.items() if key != "$defs"]


def _reached(name: str, defs: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    todo = [name]
    while todo:
        for each in _names_in(defs.get(todo.pop())):
            if each not in found:
                found.add(each)
                todo.append(each)
    return found


def _kind_of(member: Any, defs: Mapping[str, Any]) -> str:
    seen: set[str] = set()
    while isinstance(member, dict) and isinstance(ref := member.get("$ref"), str) and ref not in seen:
        seen.add(ref)
        member = defs.get(ref.removeprefix(_REF))
    return str(member.get("type", "object")) if isinstance(member, dict) else "object"
