"""One conversation of a run, the root's or a child's: a model, a session, and the loop between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import anyio

from rlm_wasm.conversation.compaction import Compaction
from rlm_wasm.conversation.loop import (
    AnswerChecked,
    AskLast,
    AskModel,
    AskSummary,
    Begin,
    BlockJudged,
    CellFinished,
    CheckAnswer,
    Conclusion,
    JudgeBlock,
    LoopEffect,
    LoopInput,
    ModelFailed,
    ModelReplied,
    MustStop,
    RlmLoop,
    RunBlock,
)
from rlm_wasm.conversation.typed_answer import UnfitAnswer
from rlm_wasm.engine.accounting import Meter
from rlm_wasm.engine.answer_check import AnswerCheck, checked_data
from rlm_wasm.engine.broker import Broker
from rlm_wasm.engine.cell_judge import CellJudge, PendingCell
from rlm_wasm.engine.contexts import REBASE_FROM_UNITS, InputValue, copied_size, describe, files_of
from rlm_wasm.engine.guest_requests import GuestRequests
from rlm_wasm.engine.packages import packages_of
from rlm_wasm.engine.run_tools import NO_TOOL_FACTS, ToolFacts
from rlm_wasm.engine.session_files import Outputs, SessionFiles
from rlm_wasm.engine.transcript import Transcript, Watch
from rlm_wasm.errors import CellRefused, FuelExhausted, InternalError, SourceExceeded, WorkerLost
from rlm_wasm.guidance import NO_GUIDANCE, Guidance
from rlm_wasm.host.held_inputs import HeldInputs
from rlm_wasm.host.worker import Measured, Worker, WorkerSession, lockdown_of
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import CellLimits
from rlm_wasm.outcomes import SessionState, StopKind, StopReason
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.session_names import OUTPUT_NAME, TOOLS_NAME
from rlm_wasm.protocol.session_snapshot import SessionSnapshot
from rlm_wasm.results import CellResult
from rlm_wasm.scheduler.messages import Message
from rlm_wasm.scheduler.pricing import utf8_bytes
from rlm_wasm.scheduler.request import Completed, Response, error_of
from rlm_wasm.scheduler.scheduler import (
    CellJudged,
    CellStarted,
    FuelUsed,
    IterationStarted,
    Noted,
    ObservationMade,
    QueryReceived,
)

# A conversation has fewer sessions than this has numbers: each but the first follows a lost one.
_SESSIONS_BITS = 20
# For the files of a run that was ended: its deadline is past then, or somebody waits for its end.
AFTER_END_SECONDS_MAX = 10


@dataclass(frozen=True, slots=True)
class ConversationPlace:
    """Where in which tree a conversation stands. `parent` is the request that it answers; None: the root."""

    run_id: RunId
    tenant: str
    depth: int
    parent: RequestId | None
    model: str
    start: SessionSnapshot | None = None  # what its session is forked from; None: the guest's base image
    start_inputs: HeldInputs | None = None  # what of the inputs of that lies with the host
    answer_bytes_max: int | None = None  # of a child: what there is room for where its answer goes


@dataclass(slots=True)
class _SessionUse:
    """What the cells of one session used, as its last event tells it."""

    cells: int = 0
    fuel: int = 0
    executed_ns: int = 0
    memory_peak_bytes: int = 0

    def add(self, ended: CellResult) -> None:
        """Count one cell."""
        self.cells += 1
        self.fuel += ended.fuel_used
        self.executed_ns += ended.executed_ns
        self.memory_peak_bytes = max(self.memory_peak_bytes, ended.memory_peak_bytes)


class Conversation:
    """Drives one model and one session. `end` may be called from the same event loop at any time."""

    def __init__(
        self,
        place: ConversationPlace,
        policy: Policy,
        broker: Broker,
        worker: Worker,
        question: str,
        contexts: Mapping[str, InputValue],
        meter: Meter,
        outputs: Outputs | None = None,
        *,
        files: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        guidance: Guidance = NO_GUIDANCE,
        hook: CellJudge | None = None,
        tools: ToolFacts = NO_TOOL_FACTS,
        output: AnswerCheck | None = None,
    ) -> None:
        self._tools = tools
        self._output = output
        self.transcript = Transcript(policy.observation, watch)
        self.place = place
        self._outputs = outputs
        self._hook = hook
        self._meter = meter
        # What the present session has used; gone with it.
        self._used = _SessionUse()
        self._policy = policy
        # Of the last cell that began: the next one's are the same as a rule.
        self._cell_limits = policy.cell
        self._broker = broker
        self._worker = worker
        self._contexts = contexts
        # What each input is called in /inputs.
        self._file_names = files_of(contexts) if files is None else files
        # Made by the task that drives: a conversation begins where there is none, in a callback.
        self._scope: anyio.CancelScope | None = None
        self._hand_out_scope: anyio.CancelScope | None = None
        self._last_scope: anyio.CancelScope | None = None
        self._ending: StopReason | None = None
        self._session: WorkerSession | None = None
        # What stood around each of its sessions, by the word.
        self.lockdowns: set[str] = set()
        self._cells = 0
        self._began_ns = 0
        self._sessions = 0
        self._inputs_size = copied_size(contexts.values())
        self._requests = GuestRequests(
            broker=broker,
            run_id=place.run_id,
            depth=place.depth,
            parent=place.parent,
            sub_model=policy.models.sub,
            boundary=policy.boundary,
            decode_ms_max=policy.cell.wall_ms_max,
            digests=policy.run.repeats_max > 0,
        )
        turns_max, turns_key = min(
            (policy.run.turns_max, "run.turns_max"), (policy.budget.iterations_max, "budget.iterations_max")
        )
        self._loop = RlmLoop(
            question,
            describe(contexts, self._file_names),
            policy.observation.dialect,
            policy.observation,
            turns_max,
            turns_key=turns_key,
            lenient_fences=policy.observation.lenient_fences,
            recursive=place.depth < policy.run.depth_max and policy.budget.children_max > 0,
            virtual_clock=policy.sandbox.clock == "virtual",
            packages=packages_of(policy.sandbox.image),
            guidance=guidance,
            judges=hook is not None,
            tools=tools.for_model(),
            whole_length_max=policy.sandbox.whole_context_chars_max,
            repeats_max=policy.run.repeats_max,
            window_tokens=policy.windows().get(place.model),
            compact_percent=policy.run.compact_percent,
            summaries_max=policy.run.summaries_max,
            asks_last=place.parent is None and policy.run.reserve_percent > 0,
            schema="" if output is None else output.schema,
        )

    def end(self, stop: StopReason) -> None:
        """Stop what the conversation is doing now and let it finish with the best answer there is."""
        if self._ending is None:
            self._ending = stop
            self._requests.close()
            if self._scope is not None:  # it acts, or hands its files out
                self._scope.cancel()
                self._broker.stirs(self.place.parent)
        elif self._last_scope is not None:
            self._last_scope.cancel()
            self._broker.stirs(self.place.parent)

    def end_hand_out(self) -> None:
        """Stop handing files out that had all of the run's time for it, as nobody had ended that."""
        if self._hand_out_scope is not None:
            self._hand_out_scope.cancel()

    async def drive(self) -> Conclusion:
        """Talk to the end; the session is gone when this returns.

        Raises ArtifactError, PolicyError, UsageError or MemoryExceeded if it cannot begin.
        """
        self._began_ns = self._broker.clock()
        try:
            given: LoopInput = Begin()
            while True:
                (effect,) = self._loop.handle(given)
                if isinstance(effect, Conclusion):
                    await self._hand_out()
                    if self._session is not None and self._ending is None:
                        await self._broker.turn(self.place.parent)
                    return effect
                given = await self._perform(effect)
        finally:
            with anyio.CancelScope(shield=True):
                await self._close_session()

    async def _perform(self, effect: LoopEffect) -> LoopInput:
        given: LoopInput | None = None
        if isinstance(effect, AskLast):
            return await self._ask_last(effect)
        if isinstance(effect, CheckAnswer):
            return await self._check_answer(effect)
        if self._ending is None:
            # A scope of its own for each effect: one that was left cannot be entered again.
            self._scope = anyio.CancelScope()
            with self._scope:
                if isinstance(effect, AskModel):
                    given = await self._ask_model(effect)
                elif isinstance(effect, AskSummary):
                    given = await self._ask_summary(effect)
                elif isinstance(effect, JudgeBlock):
                    given = await self._judge(effect)
                elif isinstance(effect, RunBlock):
                    given = await self._run_cell(effect)
                    self.transcript.ran(effect.source, given)
                else:
                    raise InternalError(f"the loop wants {type(effect).__name__}")
            self._scope = None
        if self._ending is not None:
            # A finish that came before the end was noticed still counts, though its cell was cut off.
            if isinstance(effect, RunBlock) and self._requests.finish is not None:
                return CellFinished(
                    CellResult(),
                    self._requests.finish,
                    answer_is_json=self._requests.finish_is_json,
                )
            return MustStop(self._ending)
        if given is None:
            raise InternalError("the conversation was cancelled without a reason")
        return given

    # -- the model ----------------------------------------------------------------------------------

    async def _ask_model(self, effect: AskModel) -> LoopInput:
        place, broker = self.place, self._broker
        await broker.turn(place.parent)
        self._note_compaction(effect.compacted)
        self._announce(effect.observed_bytes)
        broker.submit(IterationStarted(place.run_id, place.parent))
        if self._ending is not None:
            return MustStop(self._ending)
        reply = await self._reply_to(effect.messages)
        if isinstance(reply, ModelReplied):
            self.transcript.replied(reply.text)
        return reply

    async def _ask_summary(self, effect: AskSummary) -> LoopInput:
        await self._broker.turn(self.place.parent)
        self._announce(effect.observed_bytes)
        if self._ending is not None:
            return MustStop(self._ending)
        return await self._reply_to(effect.messages)

    def _announce(self, observed_bytes: int) -> None:
        """Have the budget asked for what the model has not seen before; it may end the conversation."""
        if observed_bytes:
            self._broker.submit(ObservationMade(self.place.run_id, observed_bytes, self.place.parent))

    async def _reply_to(self, messages: tuple[Message, ...]) -> LoopInput:
        place, broker = self.place, self._broker
        response = await broker.query(
            QueryReceived(
                run_id=place.run_id,
                request_id=broker.next_request(place.run_id),
                depth=place.depth,
                origin="root",
                model=place.model,
                prompt_messages=messages,
                parent=place.parent,
            )
        )
        return _reply_of(response)

    def _note_compaction(self, compacted: Compaction | None) -> None:
        if compacted is not None:
            self._note("history_compacted", compacted.data())

    async def _ask_last(self, effect: AskLast) -> LoopInput:
        """Ask once more in a run that ends: from now on the scheduler refuses everything else."""
        place, broker = self.place, self._broker
        if self._ending is None:
            self._ending = effect.stop
            self._requests.close()
        with anyio.CancelScope() as self._last_scope:
            await broker.turn(place.parent)
            self._note_compaction(effect.compacted)
            response = await broker.query(
                QueryReceived(
                    run_id=place.run_id,
                    request_id=broker.next_request(place.run_id),
                    depth=place.depth,
                    origin="last",
                    model=place.model,
                    prompt_messages=effect.messages,
                    ending=effect.stop,
                    observed_bytes=effect.observed_bytes,
                )
            )
            self._last_scope = None
            return _reply_of(response)
        self._last_scope = None
        return MustStop(effect.stop)

    # -- the hook -----------------------------------------------------------------------------------

    async def _judge(self, effect: JudgeBlock) -> LoopInput | None:
        """Ask the hook about a cell; None where the conversation ends meanwhile."""
        place, broker, hook = self.place, self._broker, self._hook
        if hook is None:
            raise InternalError("a block is to be judged, and there is no hook")
        source_bytes = utf8_bytes(effect.source)
        if source_bytes > self._policy.cell.source_bytes_max:
            return BlockJudged()  # it cannot run anyhow, and is told why
        self._cells += 1
        judgement = hook.recalled(place.parent, self._cells)
        if judgement is None:
            # Of a run that is taken up, not before all of its log has come again.
            await broker.turn(place.parent)
            if self._ending is not None:
                return None
            judgement = await hook.judge(
                PendingCell(
                    effect.source,
                    self._cells,
                    len(self.transcript.turns),
                    place.depth,
                    place.parent,
                    place.run_id,
                    place.tenant,
                )
            )
        await broker.turn(place.parent)
        if self._ending is not None:
            return None
        verdict, reason = judgement.verdict, judgement.reason
        broker.submit(
            CellJudged(
                place.run_id, self._cells, source_bytes, verdict, reason, judgement.error, place.parent
            )
        )
        if verdict == "passed":
            return BlockJudged()
        if verdict != "refused":  # the scheduler ends the run, and with it this
            return None
        refused = CellRefused(f"The block was refused and did not run: {reason}")
        self.transcript.ran(effect.source, CellFinished(CellResult(refused)))
        return BlockJudged(refused)

    # -- a typed answer -----------------------------------------------------------------------------

    async def _check_answer(self, effect: CheckAnswer) -> LoopInput:
        """Check a declared answer; also where the run ends meanwhile: it came before that."""
        if self._output is None:
            raise InternalError("an answer is to be checked, and nothing says what it is to be")
        found = await self._output.check(effect)
        if isinstance(found, UnfitAnswer):
            self.transcript.refused(found.problems)
        if self._ending is None:
            self._scope = anyio.CancelScope()
            with self._scope:
                await self._broker.turn(self.place.parent)
                if self._ending is None:
                    self._note("answer_checked", checked_data(effect, found, texts=self._policy.events.texts))
            self._scope = None
        return AnswerChecked(found)

    # -- the session --------------------------------------------------------------------------------

    async def _run_cell(self, effect: RunBlock) -> CellFinished:
        place = self.place
        try:
            session = self._session or await self._open_session()
        except WorkerLost as lost:
            # The next cell tries again, within the run's iterations.
            return CellFinished(CellResult(error=lost, session_state=SessionState.LOST))
        await self._broker.turn(place.parent)
        limits = self._cell_limits
        source_bytes = utf8_bytes(effect.source)
        if source_bytes > limits.source_bytes_max:
            most = limits.source_bytes_max
            too_long = f"The block is longer than the {most} bytes a cell may have."
            return CellFinished(CellResult(error=SourceExceeded(too_long, limit=most)))
        if self._hook is None:  # else it was numbered when that was asked
            self._cells += 1
        self._requests.begin_cell(self._cells)
        fuel = self._first_fuel(source_bytes)
        if not fuel:  # the scheduler ends the conversation, and with it this
            return CellFinished(CellResult(error=FuelExhausted("the run has no fuel left for a cell")))
        refuels = fuel < self._policy.cell.fuel_max
        if fuel != limits.fuel_max:
            limits = self._cell_limits = replace(limits, fuel_max=fuel)
        try:
            result = await session.run(
                Cell(effect.source, limits, report_variables=True, refuels=refuels),
                self._requests,
                checkpoint_bytes_max=self._policy.sandbox.checkpoint_bytes_max,
            )
            await self._broker.turn(place.parent)
        finally:
            self._requests.end_cell()
            used: int | None = None
            if (ended := session.last_result) is not None:
                used = ended.fuel_used
                # Also of a cell that was cancelled: it has used it.
                self._used.add(ended)
                self._meter.cell_ended(ended)
                self._note("cell_ended", _cell_ended(self._cells, ended))
            self._broker.submit(FuelUsed(place.run_id, used, place.parent))
        if result.session_state is SessionState.LOST:
            await self._close_session()
        alive = result.session_state is SessionState.ALIVE
        requests = self._requests
        answered = () if alive else requests.answered
        return CellFinished(
            result, requests.finish, answered, requests.cut, requests.asked, requests.finish_is_json
        )

    async def _hand_out(self) -> None:
        """Await what is to be done with the session's files, until the run ends at the latest."""
        if self._session is None or self._outputs is None:
            return
        seconds = float(AFTER_END_SECONDS_MAX)
        ending = self._ending
        in_time = ending is None or (ending.is_limit and ending.kind is not StopKind.DEADLINE)
        if in_time:
            left_ns = self._policy.run.wall_ms_max * 1_000_000 - (self._broker.clock() - self._began_ns)
            seconds = max(0, left_ns) / 1e9
        with anyio.move_on_after(seconds) as self._scope:
            if in_time:
                self._hand_out_scope = self._scope
            await self._outputs(self._files(self._session))
        self._scope = self._hand_out_scope = None

    def _files(self, session: WorkerSession) -> SessionFiles:
        box = self._policy.sandbox

        async def run(source: str, limits: CellLimits) -> CellResult:
            with self._meter.cell_of(session):
                return await session.run(Cell(source, limits))

        return SessionFiles(run, session.load, self._policy.cell, box.files_bytes_max, box.files_max)

    def _first_fuel(self, source_bytes: int) -> int:
        """Begin a cell and return what it may use at first: reserved, until FuelUsed settles it."""
        place = self.place
        fuel: list[int] = []
        self._broker.ask_fuel(CellStarted(place.run_id, self._cells, source_bytes, place.parent), fuel.append)
        if not fuel:
            raise InternalError("a cell began while an effect was performed")
        return fuel[0]

    def _note(self, kind: str, data: dict[str, object]) -> None:
        self._broker.submit(Noted(self.place.run_id, kind, data, self.place.depth, self.place.parent))

    async def _open_session(self) -> WorkerSession:
        policy = self._policy
        self._sessions += 1
        # Numbered within the run: what a guest sees of a seed does not depend on what else goes on.
        stream = ((self.place.parent or 0) << _SESSIONS_BITS) + self._sessions
        limits = replace(policy.session_limits(), stream=stream)
        session = await self._worker.session(
            limits, policy.boundary, tenant=self.place.tenant, start=self.place.start
        )
        self._meter.session_opened()
        self.lockdowns.add(lockdown_of(session))
        try:
            if self.place.start_inputs is not None:
                session.inputs.begin_with(self.place.start_inputs)
            if self._tools:
                await session.load(TOOLS_NAME, self._tools.for_guest())
            if self._output is not None:
                await session.load(OUTPUT_NAME, self._output.kind)
            for name, value in self._contexts.items():
                await session.load(name, value, file=self._file_names[name])
            if policy.sandbox.checkpoint_bytes_max and self._inputs_size > REBASE_FROM_UNITS:
                # Else every checkpoint would copy the inputs again.
                await session.rebase()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await session.aclose()
            raise
        self._session = session
        self._used = _SessionUse()
        return session

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            cpu_ns = session.cpu_ns() if isinstance(session, Measured) else None
            self._note("session_ended", _session_ended(self._used, cpu_ns, lockdown_of(session)))
            await session.aclose()


def _reply_of(response: Response) -> ModelReplied | ModelFailed:
    if isinstance(response, Completed):
        usage = response.usage
        counted = None if usage is None or usage.input_estimated else usage.input_tokens
        return ModelReplied(response.text, response.finish, counted, response.window_tokens)
    error = error_of(response)
    if error is None:
        raise InternalError("a response is neither an answer nor an error")
    return ModelFailed(error)


def _session_ended(used: _SessionUse, worker_cpu_ns: int | None, lockdown: str) -> dict[str, object]:
    return {
        "cells": used.cells,
        "fuel": used.fuel,
        "executed_ns": used.executed_ns,
        "worker_cpu_ns": worker_cpu_ns,
        "memory_peak_bytes": used.memory_peak_bytes,
        "lockdown": lockdown,
    }


def _cell_ended(cell: int, result: CellResult) -> dict[str, object]:
    return {
        "cell": cell,
        "outcome": result.outcome.value,
        "fuel": result.fuel_used,
        "memory_bytes": result.memory_peak_bytes,
        "session_lost": result.session_state is not SessionState.ALIVE,
        "restored": result.session_state is SessionState.RESTORED,
    }
