"""``rlm-wasm run``: answer a question; the answer alone goes to stdout."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlm_wasm.cli import output
from rlm_wasm.cli.early_interrupt import ready
from rlm_wasm.cli.exit_codes import INTERRUPTED, ExitCode, of_run
from rlm_wasm.cli.inputs import InputOptions, input_options, spare_what_is_read
from rlm_wasm.cli.out_folder import LEFT_IN, copy_and_tell
from rlm_wasm.cli.preload import preload_guest
from rlm_wasm.cli.progress import RunProgress

if TYPE_CHECKING:
    from rlm_wasm.api.inputs import Inputs
    from rlm_wasm.engine.session_files import SessionFiles
    from rlm_wasm.results import RunResult


@click.command("run")
@click.argument("question")
@click.option("--policy", "policy_name", required=True, metavar="P", help="A built-in policy or a file.")
@input_options("An input, bound to `context` (then context_2, …) or NAME in the guest.")
@click.option(
    "--model", metavar="M", help="The root model, as provider:name; also the sub-model if that is not given."
)
@click.option("--sub-model", metavar="M", help="The model that answers llm_query.")
@click.option("--events", "events_file", metavar="FILE.jsonl", help="Write every event of the run to a file.")
@click.option(
    "--answers-from", "answers_file", metavar="EVENTS.jsonl",
    help="Take the answers recorded in a log with texts instead of asking a model.",
)  # fmt: skip
@click.option("--out", "folder", metavar="DIR", help="Copy what the model's code leaves in /out into DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the answer.")
def run(
    question: str,
    policy_name: str,
    inputs: InputOptions,
    model: str | None,
    sub_model: str | None,
    events_file: str | None,
    answers_file: str | None,
    folder: str | None,
    as_json: bool,
) -> int:
    """Answer QUESTION about the given contexts.

    Progress goes to stderr when that is a terminal. Ctrl-C once ends the run with the best partial
    answer; twice stops at once.
    """
    preload_guest(policy_name)
    import anyio

    from rlm_wasm.api.runtime import Runtime
    from rlm_wasm.audit.sink import JsonlSink
    from rlm_wasm.cli.interrupts import interruptible
    from rlm_wasm.engine.isolation import import_worker
    from rlm_wasm.policy.model import Policy
    from rlm_wasm.replay.recording import Recording
    from rlm_wasm.replay.replay import answers_from

    policy = Policy.open(policy_name)
    import_worker(policy)
    ready()
    route = None if answers_file is None else answers_from(Recording.open(answers_file))
    runtime = Runtime(policy, model=model, sub_model=sub_model, route=route)
    spare_what_is_read(events_file, policy_name, answers_file, contexts=inputs.contexts)
    given = inputs.read(policy)
    if policy.sandbox.isolation == "inline":
        output.note("isolation: inline: the guest runs in this process, behind the wasm wall only")

    copied: bool | None = None  # not yet
    with ExitStack() as stack:
        progress = stack.enter_context(RunProgress(policy))
        sinks = [progress.__call__]
        if events_file is not None:
            sinks.append(stack.enter_context(JsonlSink(events_file)).write)

        async def hand_out(files: SessionFiles) -> None:
            nonlocal copied
            assert folder is not None
            copied = False  # stays so if the run's end cuts it short
            copied = await copy_and_tell(
                files.list, files.read, Path(folder), bytes_max=policy.sandbox.files_bytes_max
            )

        async def main() -> RunResult:
            async with runtime:
                return await interruptible(
                    lambda: runtime.ask(question, given, sinks=sinks, outputs=hand_out if folder else None),
                    lambda: runtime.cancel(INTERRUPTED),
                )

        result = anyio.run(main)
    _show(result, given, as_json=as_json)
    status = of_run(result.stop, partial=result.partial)
    if folder is not None and not copied:
        if copied is None:
            output.failure(f"there is no session any more, and nothing of what was left in {LEFT_IN}")
        status = ExitCode.USAGE if status is ExitCode.DONE else status
    return int(status)


def _show(result: RunResult, given: Inputs, *, as_json: bool) -> None:
    if as_json:
        output.document(
            {
                "answer": result.answer,
                "partial": result.partial,
                "reason": result.reason,
                "stop": {
                    "kind": result.stop.kind.value,
                    "key": result.stop.key,
                    "limit": result.stop.limit,
                },
                "run_id": result.run_id,
                "spent": result.spent,
                "wall_ms": result.wall_ms,
                "lockdown": result.lockdown,
                "prices": {spec: asdict(price) for spec, price in result.prices.items()},
            }
            | given.as_report()
        )
        return
    if result.partial:
        what = "there is no answer" if result.answer is None else "a partial answer follows"
        if result.events_alone:
            output.note(f"the run has not all of its events written ({result.reason}); {what}")
        else:
            output.note(f"the run ended early ({result.reason}); {what}")
    if result.answer is not None:
        output.untrusted(result.answer, newline=True)
