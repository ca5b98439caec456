"""``rlm-wasm run``: answer a question; the answer alone goes to stdout."""

from __future__ import annotations

from typing import Any

import click

from rlm_wasm.cli.inputs import input_options
from rlm_wasm.cli.question import GivenQuestion, answer, question_options


@click.command("run")
@click.argument("question")
@input_options("An input, bound to `context` (then context_2, …) or NAME in the guest.")
@question_options
def run(**given: Any) -> int:
    """Answer QUESTION about the given contexts.

    Progress goes to stderr when that is a terminal. Ctrl-C once ends the run with the best partial
    answer; twice stops at once.
    """
    asked = GivenQuestion(**given)
    return answer(asked, told=asked.policy_name is None)
