"""A question from the command line, for `ask` and `run`: what was given, who answers it, what is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from rlm_wasm.cli import output
from rlm_wasm.cli.early_interrupt import ready
from rlm_wasm.cli.exit_codes import INTERRUPTED, ExitCode, of_run
from rlm_wasm.cli.first_use import wait_for_first_use
from rlm_wasm.cli.guidance import GUIDANCE_OPTIONS, read_guidance, reads_stdin
from rlm_wasm.cli.image_option import image_option, with_image
from rlm_wasm.cli.inputs import InputOptions, spare_what_is_read
from rlm_wasm.cli.out_folder import LEFT_IN, copy_and_tell, look_at
from rlm_wasm.cli.preload import preload_guest
from rlm_wasm.cli.progress import RunProgress
from rlm_wasm.cli.run_view import RunView
from rlm_wasm.cli.schema_option import SCHEMA_OPTION, read_schema
from rlm_wasm.errors import UsageError

if TYPE_CHECKING:
    from rlm_wasm.answers.answer_type import AnswerType
    from rlm_wasm.api.inputs import Inputs
    from rlm_wasm.engine.session_files import SessionFiles
    from rlm_wasm.guidance import Guidance
    from rlm_wasm.policy.model import Policy
    from rlm_wasm.results import RunResult

# Whichever is taken where none is named, its guests have processes of their own.
_LIKELY_POLICY: Final = "strict"

_OPTIONS: Final = (
    click.option(
        "--policy", "policy_name", metavar="P",
        help="A built-in policy or a file. Without: strict, or container where the machine gives no more, "
        "with the models and keys that the environment names.",
    ),
    click.option(
        "--inline", is_flag=True,
        help="Without --policy: run the guest in this process, behind the wasm wall only.",
    ),
    image_option,
    click.option(
        "--model", metavar="M",
        help="The root model, as provider:name; also the sub-model if that is not given.",
    ),
    click.option("--sub-model", metavar="M", help="The model that answers llm_query."),
    click.option("--base-url", metavar="URL", help="The endpoint of the root model's provider."),
    click.option(
        "--key-env", metavar="NAME",
        help='The environment variable with that endpoint\'s key; "": it has none.',
    ),
    click.option(
        "--price", "prices", multiple=True, metavar="[MODEL=]IN,OUT",
        help="What a model costs, in dollars for a million tokens, or free. May be repeated.",
    ),
    *GUIDANCE_OPTIONS,
    SCHEMA_OPTION,
    click.option(
        "--events", "events_file", metavar="FILE.jsonl", help="Write every event of the run to a file."
    ),
    click.option(
        "--answers-from", "answers_file", metavar="EVENTS.jsonl",
        help="Take the answers recorded in a log with texts instead of asking a model.",
    ),
    click.option(
        "--out", "folder", metavar="DIR", help="Copy what the model's code leaves in /out into DIR."
    ),
    click.option(
        "-v", "--verbose", is_flag=True, help="Show each turn on stderr: reply, code, what that showed."
    ),
    click.option(
        "--dry-run", "dry_run", is_flag=True,
        help="Ask nobody: read the inputs, and say what the run may use and cost at most. No key is needed.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the answer."),
)  # fmt: skip


def question_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that all questions have."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenQuestion:
    """What the command line says, as it says it."""

    question: str
    inputs: InputOptions
    policy_name: str | None
    image: str | None
    inline: bool
    model: str | None
    sub_model: str | None
    base_url: str | None
    key_env: str | None
    prices: tuple[str, ...]
    instructions_file: str | None
    instruct: str | None
    examples_file: str | None
    schema_file: str | None
    events_file: str | None
    answers_file: str | None
    folder: str | None
    verbose: bool
    dry_run: bool
    as_json: bool

    def __post_init__(self) -> None:
        if self.inline and self.policy_name is not None:
            raise UsageError(
                "--inline is for when no policy is named", hint='a policy says isolation = "inline"'
            )

    def guidance(self, policy: Policy) -> Guidance:
        """Read what is told and shown to the model. Raises UsageError for what cannot be."""
        return read_guidance(policy, self.instructions_file, self.instruct, self.examples_file)

    def output(self, policy: Policy) -> AnswerType | None:
        """Read what the answer is to be. Raises UsageError for what is no schema."""
        return None if self.schema_file is None else read_schema(policy, self.schema_file)

    def _stdin_taken(self) -> bool:
        return reads_stdin(self.instructions_file) or reads_stdin(self.schema_file)

    def read_inputs(self, policy: Policy) -> Inputs:
        """Read the inputs. Raises UsageError, also where the log is to be written over what is read."""
        inputs = self.inputs.read(policy, stdin_taken=self._stdin_taken())
        files = (
            *(self.policy_name, self.answers_file),
            *(self.instructions_file, self.examples_file, self.schema_file),
        )
        spare_what_is_read(self.events_file, *files, inputs=inputs)
        return inputs


def answer(given: GivenQuestion, *, told: bool) -> int:
    """Answer a question and return the exit status. `told`: say in a line what was taken."""
    if given.dry_run:
        from rlm_wasm.cli.dry_run import tell_bound

        return tell_bound(given)
    look_at(given.folder)
    preload_guest(given.policy_name or _LIKELY_POLICY, inline=given.inline, image=given.image)
    import anyio

    from rlm_wasm.api.runtime import Runtime
    from rlm_wasm.audit.sink import JsonlSink
    from rlm_wasm.cli.interrupts import interruptible
    from rlm_wasm.cli.who_answers import who_answers
    from rlm_wasm.engine.isolation import import_worker
    from rlm_wasm.replay.recording import Recording
    from rlm_wasm.replay.replay import answers_from

    taken = who_answers(given)
    policy = with_image(taken.policy, given.image)
    import_worker(policy)
    ready()
    route = None if given.answers_file is None else answers_from(Recording.open(given.answers_file))
    runtime = Runtime(policy, route=route)
    guidance = given.guidance(policy)
    wanted = given.output(policy)
    inputs = given.read_inputs(policy)
    if told:
        output.note(taken.line())
    elif policy.sandbox.isolation == "inline":
        output.note("isolation: inline: the guest runs in this process, behind the wasm wall only")

    copied: bool | None = None  # not yet
    wait_for_first_use()
    with ExitStack() as stack:
        progress = stack.enter_context(RunProgress(policy))
        sinks = [progress.__call__]
        view = RunView(progress.above) if given.verbose else None
        if view is not None:
            sinks.append(view.event)
        if given.events_file is not None:
            sinks.append(stack.enter_context(JsonlSink(given.events_file)).write)

        async def hand_out(files: SessionFiles) -> None:
            nonlocal copied
            assert given.folder is not None
            copied = False  # stays so if the run's end cuts it short
            copied = await copy_and_tell(
                files.list, files.read, Path(given.folder), bytes_max=policy.sandbox.files_bytes_max
            )

        async def main() -> RunResult:
            async with runtime:
                return await interruptible(
                    lambda: runtime.ask(
                        given.question,
                        inputs,
                        sinks=sinks,
                        outputs=hand_out if given.folder else None,
                        file_names=inputs.file_names,
                        watch=view,
                        instructions=guidance.instructions or None,
                        examples=guidance.examples,
                        output=wanted,
                    ),
                    lambda: runtime.cancel(INTERRUPTED),
                )

        result = anyio.run(main)
    show(result, inputs, as_json=given.as_json)
    status = of_run(result.stop, partial=result.partial)
    if given.folder is not None and not copied:
        if copied is None:
            output.failure(f"there is no session any more, and nothing of what was left in {LEFT_IN}")
        status = ExitCode.USAGE if status is ExitCode.DONE else status
    return int(status)


def show(result: RunResult, inputs: Inputs, *, as_json: bool) -> None:
    """Show what a run came to."""
    if result.cache_fault is not None:
        output.note(str(result.cache_fault))
    if as_json:
        output.document(_document(result) | inputs.as_report())
        return
    if result.partial:
        what = "there is no answer" if result.answer is None else "a partial answer follows"
        if result.events_alone:
            output.note(f"the run has not all of its events written ({result.reason}); {what}")
        else:
            output.note(f"the run ended early ({result.reason}); {what}")
        for each in () if result.checked else result.problems:
            output.note(f"its last answer does not fit the schema: {each}")
    if result.checked:
        output.untrusted(json.dumps(result.value, ensure_ascii=False), newline=True)
    elif result.answer is not None:
        output.untrusted(result.answer, newline=True)


def _document(result: RunResult) -> dict[str, Any]:
    return {
        "answer": result.answer,
        "value": result.value,
        "checked": result.checked,
        "problems": list(result.problems),
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
        "transcript": [asdict(turn) for turn in result.transcript],
        "prices": {spec: asdict(price) for spec, price in result.prices.items()},
        "answered_by": dict(result.answered_by),
        "cached": result.cached,
        "cache_fault": None if result.cache_fault is None else result.cache_fault.message,
    }
