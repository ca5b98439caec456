"""A recorded run, asked again with its recording as the world: what a replay and a run taken up share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import anyio

from rlm_wasm.answers.answer_type import AnswerType
from rlm_wasm.api.runtime import Runtime
from rlm_wasm.api.snapshot import Snapshot
from rlm_wasm.api.world import World
from rlm_wasm.artifacts.process_guest import process_guest
from rlm_wasm.engine.broker import HANG_UP_SECONDS_MAX, Broker, Router
from rlm_wasm.engine.cell_judge import OnCell
from rlm_wasm.engine.contexts import InputValue
from rlm_wasm.events import Event
from rlm_wasm.host.worker import Worker
from rlm_wasm.limits import PermitLimits
from rlm_wasm.policy.model import Policy
from rlm_wasm.replay.recorded_order import RecordedOrder
from rlm_wasm.replay.recorded_verdicts import RecordedVerdicts
from rlm_wasm.replay.recording import Recording
from rlm_wasm.results import RunResult


class RepeatedRun:
    """A recorded run with its question, its inputs and its number: `ask` it once.

    Raises:
        UsageError: an input or the snapshot is missing, not wanted, or another one.
        ArtifactError: no guest is built, or it is not what was built.
    """

    def __init__(
        self,
        recording: Recording,
        order: RecordedOrder,
        policy: Policy,
        contexts: Mapping[str, InputValue] | None,
        snapshot: Snapshot | None,
        *,
        clock: Callable[[], int],
        make_broker: Callable[[PermitLimits, Callable[[], int]], Broker],
        worker: Worker | None = None,
        environ: Mapping[str, str] | None = None,
        route: Router | None = None,
        on_cell: OnCell | None = None,
        output: AnswerType | None = None,
    ) -> None:
        self._recording: Final = recording
        self._order: Final = order
        self._inputs: Final = recording.inputs(contexts or {})
        if worker is None:
            # One that is missing would else be a difference, where the run says what it had.
            process_guest(policy.sandbox.image)
        self._start: Final = recording.snapshot(snapshot)
        world = World(
            worker=worker,
            clock=clock,
            entropy=lambda count: bytes.fromhex(recording.run_id.removeprefix("run_"))[:count],
            make_broker=make_broker,
            verdicts=RecordedVerdicts(recording.events) if recording.hooked else None,
            tools=recording.tools,
            output=recording.output(output),
        )
        self._on_cell: Final = on_cell
        self._runtime: Final = Runtime.in_world(policy, world, environ=environ, route=route)

    async def ask(
        self, sinks: Iterable[Callable[[Event], None]], repeats: Callable[[], bool] = lambda: True
    ) -> RunResult | None:
        """Return what the run comes to; None where it had to be torn down.

        `repeats` says whether the recording still goes on. Raises what `Runtime.ask` raises, and UsageError
        for a file that is not the recorded one.
        """
        recording, result = self._recording, None
        await recording.check_files(self._inputs)
        failure: Exception | None = None
        async with self._runtime, anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_if_idle, repeats, tasks.cancel_scope)
            try:
                result = await self._runtime.ask(
                    recording.question,
                    self._inputs,
                    sinks=sinks,
                    tenant=recording.tenant,
                    snapshot=self._start,
                    file_names=recording.file_names,
                    instructions=recording.guidance.instructions or None,
                    examples=recording.guidance.examples,
                    on_cell=self._on_cell,
                )
            except Exception as error:  # noqa: BLE001 - raised again below, without the group's wrapping
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return result

    def cancel(self, reason: str) -> None:
        """Ask the run to end now, with its best partial answer."""
        self._runtime.cancel(reason)

    async def _end_if_idle(self, repeats: Callable[[], bool], scope: anyio.CancelScope) -> None:
        """End a run of whose recording nothing comes again for as long as a whole run may take.

        One that waits for what cannot come sees that by itself; this is for what nobody thought of.
        """
        idle_ms_max = self._runtime.policy.run.wall_ms_max
        seen = -1
        while repeats() and seen != self._order.progress:
            seen = self._order.progress
            await anyio.sleep(idle_ms_max / 1000)
        if not repeats():
            return
        self._order.give_up(idle_ms_max)
        self._runtime.cancel("the recording came no further")
        await anyio.sleep(HANG_UP_SECONDS_MAX)
        scope.cancel()
