"""``rlm-wasm run``: answer a question; the answer alone goes to stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rlm_wasm.cli.inputs import input_options
from rlm_wasm.cli.question import GivenQuestion, answer, question_options
from rlm_wasm.errors import UsageError

if TYPE_CHECKING:
    from rlm_wasm.cli.inputs import InputOptions


@click.command("run")
@click.argument("question", required=False)
@click.option(
    "--resume",
    "resumed",
    metavar="EVENTS.jsonl",
    help="Take up the run of this log, whose process was killed, where it ends; it has QUESTION and policy.",
)
@input_options("An input, bound to `context` (then context_2, …) or NAME in the guest.")
@question_options
def run(*, question: str | None, resumed: str | None, **given: Any) -> int:
    """Answer QUESTION about the given contexts.

    Progress goes to stderr when that is a terminal. Ctrl-C once ends the run with the best partial
    answer; twice stops at once.
    """
    if resumed is not None:
        return _take_up(resumed, question, **given)
    if question is None:
        raise UsageError("there is no question", hint='rlm-wasm run "How many?" --context FILE')
    asked = GivenQuestion(question=question, **given)
    return answer(asked, told=asked.policy_name is None)


def _take_up(
    log: str,
    question: str | None,
    *,
    inputs: InputOptions,
    policy_name: str | None,
    events_file: str | None,
    as_json: bool,
    **others: Any,
) -> int:
    """Take a run up. It goes on as it was begun: what would change it is refused."""
    from rlm_wasm.cli.resumed_run import take_up

    if question is not None or any(others.values()):
        given = "question" if question is not None else _option(next(k for k, v in others.items() if v))
        raise UsageError(
            f"--resume goes on with what the run was begun with, and takes no {given}",
            hint="--context, --events, --policy (the same one) and --json go with --resume",
        )
    return take_up(log, inputs, policy_name, events_file, as_json=as_json)


def _option(name: str) -> str:
    """Return an option as people write it."""
    options = {param.name: max(param.opts, key=len) for param in click.get_current_context().command.params}
    return options[name]
