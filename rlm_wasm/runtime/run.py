"""One run: a question, a session, the loop between them, one ledger, one result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import monotonic_ns

import anyio

from rlm_wasm.core.cell_report import CellReport
from rlm_wasm.core.ledger import Dimension
from rlm_wasm.core.loop import (
    AskModel,
    Begin,
    BudgetEnded,
    CellFinished,
    Finish,
    LoopEffect,
    LoopInput,
    ModelFailed,
    ModelReplied,
    RlmLoop,
    RunCell,
)
from rlm_wasm.core.request import Completed, error_of
from rlm_wasm.core.scheduler import FuelUsed, IterationStarted, QueryReceived, RunEnded
from rlm_wasm.errors import GuestError, GuestException, InternalError
from rlm_wasm.ids import RunId
from rlm_wasm.policy.model import Policy
from rlm_wasm.runtime.broker import Broker
from rlm_wasm.runtime.contexts import describe
from rlm_wasm.runtime.guest_requests import GuestRequests
from rlm_wasm.sandbox.session import Cell
from rlm_wasm.worker.result import CellResult
from rlm_wasm.worker.worker import Worker, WorkerSession

# Characters or bytes of inputs from which a session's origin is taken anew after loading them.
REBASE_FROM_UNITS = 1 << 20


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to.

    `answer` is None when there is none; `partial` is True for anything the model did not declare
    final, and `reason` says why the run ended. `spent` maps each dimension of the ledger to what
    was used.
    """

    run_id: RunId
    answer: str | None
    partial: bool
    reason: str
    spent: dict[str, int]
    wall_ms: int


class ActiveRun:
    """A run that is under way. `cancel` may be called from the same event loop at any time."""

    def __init__(
        self,
        run_id: RunId,
        policy: Policy,
        broker: Broker,
        worker: Worker,
        question: str,
        contexts: Mapping[str, str | bytes],
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        self.run_id = run_id
        self._clock = clock
        self._policy = policy
        self._broker = broker
        self._worker = worker
        self._contexts = contexts
        self._scope = anyio.CancelScope()
        self._ending: str | None = None
        self._session: WorkerSession | None = None
        self._variables: tuple[str, ...] = ()
        self._inputs_size = sum(len(value) for value in contexts.values())
        self._requests = GuestRequests(
            broker=broker,
            run_id=run_id,
            depth=0,
            sub_model=policy.models.sub,
            models=frozenset(policy.prices()),
            boundary=policy.boundary_limits(),
            cell_requests_max=policy.cell.requests_max,
        )
        self._loop = RlmLoop(
            question,
            describe(contexts),
            policy.observation.dialect,
            policy.observation_limits(),
            policy.budget.iterations_max,
            lenient_fences=policy.observation.lenient_fences,
        )

    def end(self, reason: str) -> None:
        """Stop what the run is doing now and let it finish with the best answer there is."""
        if self._ending is None:
            self._ending = reason
            self._scope.cancel()

    async def drive(self) -> RunResult:
        """Run to the end. Raises ArtifactError, PolicyError or UsageError if the run cannot begin."""
        began = self._clock()
        outcome = "failed"
        try:
            finish = await self._until_finish()
            outcome = finish.reason
            spent = {d.value: view.spent for d, view in self._broker.budget_view(self.run_id).items()}
            wall_ms = (self._clock() - began) // 1_000_000
            return RunResult(self.run_id, finish.answer, finish.partial, finish.reason, spent, wall_ms)
        finally:
            with anyio.CancelScope(shield=True):
                await self._close_session()
                await self._broker.finish_run(RunEnded(self.run_id, outcome), self.run_id)

    async def _until_finish(self) -> Finish:
        given: LoopInput = Begin()
        while True:
            (effect,) = self._loop.handle(given)
            if isinstance(effect, Finish):
                return effect
            given = await self._perform(effect)

    async def _perform(self, effect: LoopEffect) -> LoopInput:
        given: LoopInput | None = None
        if self._ending is None:
            # A scope of its own for each effect: one that was left cannot be entered again.
            self._scope = anyio.CancelScope()
            with self._scope:
                if isinstance(effect, AskModel):
                    given = await self._ask_model(effect)
                elif isinstance(effect, RunCell):
                    given = await self._run_cell(effect)
                else:
                    raise InternalError(f"the loop wants {type(effect).__name__}")
        if self._ending is not None:
            # A finish that came before the end was noticed still counts, though its cell was cut off.
            if isinstance(effect, RunCell) and self._requests.finish is not None:
                return CellFinished(CellReport(outcome="completed", finish=self._requests.finish))
            return BudgetEnded(self._ending)
        if given is None:
            raise InternalError("the run was cancelled without a reason")
        return given

    # -- the root model -----------------------------------------------------------------------------

    async def _ask_model(self, effect: AskModel) -> LoopInput:
        self._broker.submit(IterationStarted(self.run_id))
        if self._ending is not None:
            return BudgetEnded(self._ending)
        response = await self._broker.query(
            QueryReceived(
                run_id=self.run_id,
                request_id=self._broker.next_request(self.run_id),
                depth=0,
                origin="root",
                model=self._policy.models.root,
                prompt_messages=effect.messages,
            )
        )
        if isinstance(response, Completed):
            return ModelReplied(response.text)
        error = error_of(response)
        if error is None:
            raise InternalError("a response is neither an answer nor an error")
        return ModelFailed(error)

    # -- the session --------------------------------------------------------------------------------

    async def _run_cell(self, effect: RunCell) -> LoopInput:
        session = self._session or await self._open_session()
        limits = self._policy.cell_limits()
        left = self._broker.budget_view(self.run_id)[Dimension.FUEL].available
        limits = replace(limits, fuel_max=max(1, min(limits.fuel_max, left)))
        if len(effect.source.encode("utf-8", "replace")) > limits.source_bytes_max:
            too_long = f"The block is longer than the {limits.source_bytes_max} bytes a cell may have."
            return CellFinished(CellReport(outcome="guest_exception", error=too_long))
        self._requests.begin_cell()
        result = await session.run(
            Cell(effect.source, limits, report_variables=True),
            self._requests,
            checkpoint_bytes_max=self._policy.sandbox.checkpoint_bytes_max,
        )
        self._broker.submit(FuelUsed(self.run_id, result.fuel_used))
        if not result.session_lost:
            self._variables = result.variables
        elif not result.restored:
            self._variables = ()
            await self._close_session()
        return CellFinished(self._report(result))

    async def _open_session(self) -> WorkerSession:
        session = await self._worker.session(self._policy.session_limits(), self._policy.boundary_limits())
        try:
            for name, value in self._contexts.items():
                await session.load(name, value)
            if self._policy.sandbox.checkpoint_bytes_max and self._inputs_size > REBASE_FROM_UNITS:
                # Else every checkpoint would copy the inputs again.
                await session.rebase()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await session.aclose()
            raise
        self._session = session
        return session

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.aclose()

    def _report(self, result: CellResult) -> CellReport:
        return CellReport(
            outcome=result.outcome,
            stdout=result.stdout,
            stderr=result.stderr,
            result=result.result,
            error=None if result.error is None else error_text(result.error),
            variables=self._variables,
            finish=self._requests.finish,
            session_lost=result.session_lost,
            restored=result.restored,
            queries_answered=tuple(self._requests.answered) if result.session_lost else (),
        )


def error_text(error: GuestError) -> str:
    """Return a guest's traceback if there is one, and the sentence that says what ended the cell."""
    if isinstance(error, GuestException):
        return error.traceback or str(error)
    return f"{error.traceback}{error}"
