"""Taking up a run whose process was killed, where its log ends: what is in the log is not asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import monotonic_ns
from typing import Any, Final

from rlm_wasm.answers.answer_type import AnswerType
from rlm_wasm.api.snapshot import Snapshot
from rlm_wasm.audit.log_lock import taken_up
from rlm_wasm.engine.broker import Router
from rlm_wasm.engine.cell_judge import OnCell
from rlm_wasm.engine.contexts import InputValue
from rlm_wasm.errors import ResumeCancelled, UsageError
from rlm_wasm.events import Event
from rlm_wasm.host.worker import Worker
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml
from rlm_wasm.replay.recorded_order import RecordedOrder
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.repeated_run import RepeatedRun
from rlm_wasm.replay.resuming_broker import ResumingBroker
from rlm_wasm.results import RunResult


class ResumedRun:
    """A run that is taken up where its log ends: `drive` it once.

    Guests and loops do again what the log holds, with the answers that it holds: nothing of that is asked or
    paid for again. Then the run goes on, with what is left of its budget and time. What was in flight counts
    as spent, unconfirmed, and is asked again. Each of `sinks` gets all events of the run, those of the log
    first, and none before the run goes on.

    `contexts` are the inputs that are too large for the log, `snapshot` what the run's sessions were forked
    from. A `policy` must be the recorded one. A run whose cells a hook saw goes on with an `on_cell`, which
    is asked about what the log has no verdict on. One whose answer is to be of a type of the program's goes
    on with that as `output`; a JSON Schema is in the log.

    Raises:
        UsageError: the run is over, or an input, the snapshot, the policy or `output` is not the recorded
            one; it had a hook and has none now, or the other way round.
        PolicyError: the recorded policy is none of this version's.
        ArtifactError: no guest is built, or it is not what was built.
    """

    def __init__(
        self,
        recording: Recording,
        contexts: Mapping[str, InputValue] | None = None,
        *,
        policy: Policy | None = None,
        snapshot: Snapshot | None = None,
        sinks: Iterable[Callable[[Event], None]] = (),
        environ: Mapping[str, str] | None = None,
        route: Router | None = None,
        worker: Worker | None = None,
        on_cell: OnCell | None = None,
        output: Any = None,
    ) -> None:
        check_can_be_resumed(recording, policy, on_cell, output)
        most = recording.policy.guidance_limits().instructions_bytes_max
        self._recording: Final = recording
        self._order: Final = RecordedOrder(recording.events)
        self._clock: Final = _LogThenMachine(self._order)
        # One for each: a sink that fails fails alone.
        self._gates: Final = [_HeldEvents(sink) for sink in sinks]
        self._live = False
        self._cancelled: str | None = None
        self._run: Final = RepeatedRun(
            recording,
            self._order,
            recording.policy,
            contexts,
            snapshot,
            clock=self._clock,
            make_broker=partial(ResumingBroker, self._order, recording, self._goes_on),
            worker=worker,
            environ=environ,
            route=route,
            on_cell=on_cell,
            output=None if output is None else AnswerType.of(output, most),
        )

    async def drive(self) -> RunResult:
        """Return what the run comes to.

        Raises UsageError where what the log holds does not come again, as where the guest is another one, or
        was told the real time, and where another process takes the run up; ResumeCancelled where it is
        cancelled before it goes on; and what `Runtime.ask` raises.
        """
        recording = self._recording
        with taken_up(recording.path):
            result = await self._run.ask([gate.take for gate in self._gates], lambda: not self._live)
        if self._live and result is not None:
            return result
        if self._cancelled is not None:
            raise ResumeCancelled(
                f"{recording.path}: {self._cancelled} before the run went on: nothing was asked or written",
                hint="give the same command again",
            )
        raise _does_not_come_again(recording, self._order)

    def cancel(self, reason: str = "cancelled") -> None:
        """Ask the run to end now, with its best partial answer; or, while its log is repeated, with none."""
        if not self._live:
            self._cancelled = reason
        self._run.cancel(reason)

    def _goes_on(self) -> None:
        self._live = True
        self._clock.goes_on()
        for gate in self._gates:
            gate.opens()


def check_can_be_resumed(
    recording: Recording, policy: Policy | None = None, on_cell: OnCell | None = None, output: object = None
) -> None:
    """Refuse a run that is over or whose log is not whole, and what it was not begun with."""
    last, path = recording.events[-1], recording.path
    if last.kind == "run_ended":
        raise UsageError(f"{path}: this run is over ({last.data['outcome']}); there is nothing to take up")
    if any(event.kind == "events_truncated" for event in recording.events):
        raise UsageError(f"{path}: the log is cut off by run.events_max: what came after it is not known")
    if policy is not None and to_toml(policy) != recording.policy_text:
        raise UsageError(
            f"{path}: the run was begun under another policy, and goes on under that alone",
            hint="leave --policy out",
        )
    if output is None and recording.output_kind == "type":
        raise UsageError(
            f"{path}: the answer of this run is to be of a type of its program's, which no log holds",
            hint="take it up from Python, with the same `output`; no command line gives one",
        )
    if recording.hooked and on_cell is None:
        raise UsageError(
            f"{path}: a hook saw each cell of this run before it ran, and none would see those to come",
            hint="take it up from Python, with `on_cell`; no command line gives one",
        )
    if on_cell is not None and not recording.hooked:
        raise UsageError(f"{path}: the run was begun without a hook, and goes on without one")


def _does_not_come_again(recording: Recording, order: RecordedOrder) -> UsageError:
    found = order.difference
    if found is None:
        return UsageError(f"{recording.path}: the run cannot be taken up: {order.ended}")
    return UsageError(
        f"{recording.path}: the run cannot be taken up: event {found.seq} ({found.kind}) does not come again "
        f"as it was, by its {found.field}",
        hint="rlm-wasm replay shows both; the guest must be the same, and be told no real time or chance",
    )


class _LogThenMachine:
    """The times of the log until the run goes on, and then the machine's, from there."""

    def __init__(self, order: RecordedOrder) -> None:
        self._order: Final = order
        self._from: tuple[int, int] | None = None

    def __call__(self) -> int:
        if self._from is None:
            return self._order.now_ns()
        then, began = self._from
        return then + monotonic_ns() - began

    def goes_on(self) -> None:
        """Go on from the log's last time: while nobody ran it, no time of the run's own passed."""
        self._from = self._order.now_ns(), monotonic_ns()


class _HeldEvents:
    """Gives a sink nothing until the run goes on, and then all of its events.

    Also those that stand behind the log's: its last input may have decided more than the log came to hold.
    """

    def __init__(self, sink: Callable[[Event], None]) -> None:
        self._sink: Final = sink
        self._held: list[Event] = []
        self._open = False

    def opens(self) -> None:
        """With the next event, those that were held go first."""
        self._open = True

    def take(self, event: Event) -> None:
        """Hand an event on, or hold it."""
        self._held.append(event)
        if self._open:
            held, self._held = self._held, []
            for each in held:
                self._sink(each)
