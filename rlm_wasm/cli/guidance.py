"""Own instructions and examples on the command line: the options, and what the files say that they name."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Final

import click

from rlm_wasm.cli.inputs import STDIN, read_text
from rlm_wasm.errors import UsageError
from rlm_wasm.limits import MIB

if TYPE_CHECKING:
    from rlm_wasm.guidance import Guidance
    from rlm_wasm.policy.model import Policy

_FORM: Final = 'each example is a table: [NAME] with question = "…" and reply = "…"'
# What the names of tables and keys, quotes and escapes of a file may take beside its texts.
_FILE_BYTES_MAX: Final = 4 * MIB

GUIDANCE_OPTIONS: Final = (
    click.option(
        "--instructions", "instructions_file", metavar="FILE|-",
        help="Tell the model what this file says, beside the system prompt.",
    ),
    click.option("--instruct", metavar="TEXT", help="Tell it this, behind what a file says."),
    click.option(
        "--examples", "examples_file", metavar="FILE.toml",
        help="Show it these examples: tables [NAME] with question and reply.",
    ),
)  # fmt: skip


def reads_stdin(file: str | None) -> bool:
    """Say whether an option takes standard input, so that nothing else can be read from it."""
    return file == STDIN


def read_guidance(
    policy: Policy, instructions_file: str | None, instruct: str | None, examples_file: str | None
) -> Guidance:
    """Return what is told and shown beside the policy's own. Raises UsageError for what cannot be."""
    from rlm_wasm.guidance import Guidance

    limits = policy.guidance_limits()
    said = []
    if instructions_file is not None:
        key = "guidance.instructions_bytes_max"
        text = read_text(instructions_file, limits.instructions_bytes_max, key)
        said.append(Guidance.given(text.strip("\n"), ()))
    if instruct is not None:
        said.append(Guidance.given(instruct, ()))
    if examples_file is not None:
        said.append(_examples(examples_file))
    told = Guidance()
    for each in said:
        told = told.followed_by(each)
    policy.own_guidance().followed_by(told).check(limits)
    return told


def _examples(file: str) -> Guidance:
    from rlm_wasm.guidance import Example, Guidance

    text = read_text(file, _FILE_BYTES_MAX, "guidance.examples_bytes_max")
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{file}: no TOML: {error}", hint=_FORM) from None
    examples = []
    for name, table in tables.items():
        if not isinstance(table, dict) or table.keys() != {"question", "reply"}:
            raise UsageError(f"{file}: {name!a} is no example", hint=_FORM)
        examples.append(Example(table["question"], table["reply"]))
    if not examples:
        raise UsageError(f"{file}: there are no examples in it", hint=_FORM)
    return Guidance.given(None, examples)
