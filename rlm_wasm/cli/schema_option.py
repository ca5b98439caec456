"""``--schema FILE``: the JSON Schema that the answer of a question has to fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import click

from rlm_wasm.cli.inputs import read_text
from rlm_wasm.errors import UsageError

if TYPE_CHECKING:
    from rlm_wasm.answers.answer_type import AnswerType
    from rlm_wasm.policy.model import Policy

# White space and names may make a file longer than what the model is told of it.
_FILE_TIMES_MAX: Final = 8

SCHEMA_OPTION: Final = click.option(
    "--schema", "schema_file", metavar="FILE.json",
    help="The answer has to be JSON that this JSON Schema describes; it is checked, and printed as JSON.",
)  # fmt: skip


def read_schema(policy: Policy, file: str) -> AnswerType:
    """Return what a file says that the answer is to be. Raises UsageError: it is no schema."""
    from rlm_wasm.answers.answer_type import SCHEMA_KEY, AnswerType

    most = policy.guidance_limits().instructions_bytes_max
    text = read_text(file, _FILE_TIMES_MAX * most, SCHEMA_KEY)
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: no JSON: {error}", hint="--schema takes a JSON Schema") from None
    if not isinstance(schema, dict):
        raise UsageError(f"{file}: a JSON Schema is an object", hint="--schema takes a JSON Schema")
    try:
        return AnswerType.of(schema, most)
    except UsageError as error:
        raise UsageError(f"{file}: {error.message}", hint=error.hint) from None
