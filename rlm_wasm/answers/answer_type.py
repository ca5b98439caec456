"""`AnswerType`: what the answer of a run is to be: a model is told its schema, what it gives is checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol, Self

from rlm_wasm.answers.json_gate import AnswerRefused, read_json, unfenced
from rlm_wasm.answers.json_schema import JsonSchemaReader
from rlm_wasm.answers.python_type import PythonTypeReader
from rlm_wasm.answers.schema_document import plain_schema
from rlm_wasm.conversation.typed_answer import AnswerForm, FittingAnswer, UnfitAnswer
from rlm_wasm.errors import UsageError

SCHEMA_KEY: Final = "guidance.instructions_bytes_max"
VALUE_KEY: Final = "cell.result_bytes_max"
# What a log says of it: a JSON Schema, which it holds, or a type, which only the program has.
AnswerKind = Literal["schema", "type"]


class ValueReader(Protocol):
    """What reads the value of an answer: its JSON text, and what the gate made of that."""

    def read(self, text: str, value: Any) -> Any:
        """Return it as it is wanted. Raises AnswerRefused."""


class AnswerType:
    """A JSON Schema or a Python type: as JSON Schema in `schema`, for a model."""

    def __init__(self, kind: AnswerKind, schema: str, reader: ValueReader) -> None:
        self.kind: Final[AnswerKind] = kind
        self.schema: Final = schema
        self._reader: Final = reader

    @classmethod
    def of(cls, output: Any, schema_bytes_max: int) -> Self:
        """Return what a caller wants: a mapping is a JSON Schema, all else is a type.

        Raises:
            UsageError: it is neither, its schema is longer than a model may be told, or no answer could be
                checked against it in bounded time.
        """
        if isinstance(output, Mapping):
            text, plain = plain_schema(output, schema_bytes_max, SCHEMA_KEY)
            return cls("schema", text, JsonSchemaReader(plain))
        reader = PythonTypeReader(output)
        text, _ = plain_schema(reader.schema, schema_bytes_max, SCHEMA_KEY)
        return cls("type", text, reader)

    @classmethod
    def recorded(cls, schema: str) -> Self:
        """Return the JSON Schema that a log has. Raises UsageError: it is none of this version's."""
        try:
            plain = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the schema in the log is no JSON: {error}") from None
        return cls("schema", schema, JsonSchemaReader(plain if isinstance(plain, dict) else {}))

    def check(self, text: str, form: AnswerForm, bytes_max: int) -> FittingAnswer | UnfitAnswer:
        """Say what an answer is. A text is what it says or, where that is not wanted, what its JSON says.

        What is written outside of code is its JSON first.
        """
        bare, as_text = unfenced(text), json.dumps(text, ensure_ascii=False)
        read_as = {
            AnswerForm.JSON: (text,),
            AnswerForm.TEXT: (as_text, bare),
            AnswerForm.WRITTEN: (bare, as_text),
        }
        refusals: dict[bool, AnswerRefused] = {}
        for document in read_as[form]:
            try:
                return FittingAnswer(self._read(document, bytes_max))
            except AnswerRefused as refused:
                refusals[document is as_text] = refused
        was_text = not bare.startswith(("{", "[", '"'))
        told = refusals.get(was_text) or next(iter(refusals.values()))
        return UnfitAnswer(told.problems)

    def _read(self, document: str, bytes_max: int) -> Any:
        return self._reader.read(document, read_json(document, bytes_max, VALUE_KEY))
