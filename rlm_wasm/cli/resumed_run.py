"""``rlm-wasm run --resume``: take up a run whose process was killed, where its log ends."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from rlm_wasm.cli import output
from rlm_wasm.cli.early_interrupt import ready
from rlm_wasm.cli.exit_codes import INTERRUPTED, ExitCode, of_run
from rlm_wasm.cli.inputs import InputOptions, spare_what_is_read
from rlm_wasm.cli.progress import RunProgress
from rlm_wasm.cli.question import show
from rlm_wasm.errors import ResumeCancelled

if TYPE_CHECKING:
    from rlm_wasm.events import Event
    from rlm_wasm.results import RunResult


def take_up(
    log: str, inputs: InputOptions, policy_name: str | None, events_file: str | None, *, as_json: bool
) -> int:
    """Take up the run in `log` and return the exit status. Raises UsageError where that cannot be."""
    import anyio

    from rlm_wasm.api.inputs import Inputs
    from rlm_wasm.audit.sink import JsonlSink
    from rlm_wasm.cli.interrupts import interruptible
    from rlm_wasm.engine.isolation import import_worker
    from rlm_wasm.policy.model import Policy
    from rlm_wasm.replay.recording import Recording
    from rlm_wasm.replay.resume import ResumedRun, check_can_be_resumed

    recording = Recording.open(log, killed=True)
    check_can_be_resumed(recording, None if policy_name is None else Policy.open(policy_name))
    policy = recording.policy
    import_worker(policy)
    ready()
    given = inputs.read_again(policy, {each.name: each.type_name for each in recording.contexts})
    spare_what_is_read(events_file, log, policy_name, inputs=given)
    with ExitStack() as stack:
        progress = stack.enter_context(RunProgress(policy))
        written: list[JsonlSink] = []

        def write(event: Event) -> None:
            if not written:  # not before the run goes on: a refusal leaves no file behind
                assert events_file is not None
                written.append(stack.enter_context(JsonlSink(events_file)))
                output.note(f"{recording.run_id} goes on behind its event {recording.events[-1].seq}")
            written[0].write(event)

        sinks = [progress.__call__] if events_file is None else [progress.__call__, write]
        run = ResumedRun(recording, given, sinks=sinks)

        async def main() -> RunResult:
            return await interruptible(run.drive, lambda: run.cancel(INTERRUPTED))

        try:
            result = anyio.run(main)
        except ResumeCancelled as cancelled:
            output.failure(cancelled.message, cancelled.hint)
            return int(ExitCode.INTERRUPTED)
    show(result, Inputs(()), as_json=as_json)
    return int(of_run(result.stop, partial=result.partial))
