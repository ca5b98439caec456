"""``rlm-wasm ask``: a question about files, with nothing else to say."""

from __future__ import annotations

from typing import Any

import click

from rlm_wasm.cli.inputs import input_options
from rlm_wasm.cli.question import GivenQuestion, answer, question_options


@click.command("ask")
@click.argument("question")
@input_options(None)
@question_options
def ask(**given: Any) -> int:
    """Answer QUESTION about FILEs; - is standard input.

    Without --policy it takes strict, or container where this machine gives no more, and the model and key
    that the environment names (OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_MODEL, ANTHROPIC_API_KEY, and others'
    keys), and says so in one line, with what it may cost at most. The answer alone goes to stdout.
    """
    return answer(GivenQuestion(**given), told=True)
