"""One run: a question, the tree of conversations that answers it, one ledger, one result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import anyio

from rlm_wasm.conversation.loop import Conclusion
from rlm_wasm.conversation.prompts import child_question
from rlm_wasm.engine.accounting import Meter
from rlm_wasm.engine.answer_check import AnswerCheck
from rlm_wasm.engine.broker import Broker
from rlm_wasm.engine.cell_judge import CellJudge
from rlm_wasm.engine.contexts import DEFAULT_NAME, InputValue, files_of
from rlm_wasm.engine.conversation import Conversation, ConversationPlace
from rlm_wasm.engine.description import WrittenPolicy, answer_bytes, description
from rlm_wasm.engine.run_tools import NO_TOOL_FACTS, ToolFacts
from rlm_wasm.engine.session_files import Outputs
from rlm_wasm.engine.starting_state import StartingState
from rlm_wasm.engine.task_pool import TaskPool
from rlm_wasm.engine.transcript import Watch
from rlm_wasm.errors import (
    ArtifactError,
    ChildFailed,
    GuestError,
    HostExhausted,
    InternalError,
    Overloaded,
    PolicyError,
    QueryError,
    UsageError,
)
from rlm_wasm.guidance import NO_GUIDANCE, Guidance
from rlm_wasm.host.worker import Worker
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.lockdown import Grade, weakest
from rlm_wasm.outcomes import StopReason
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.guest_frames import text_bytes
from rlm_wasm.providers.response_cache import ResponseCache
from rlm_wasm.results import RunResult
from rlm_wasm.scheduler.scheduler import ChildFinished, Noted, RunEnded, StartChild, StopChild

# What keeps a child from having its session. Its parent's code may have a use for what it has.
_NO_SESSION: Final = (ArtifactError, GuestError, HostExhausted, Overloaded, PolicyError, UsageError)


class ActiveRun:
    """A run that is under way. `end` may be called from the same event loop at any time."""

    def __init__(
        self,
        run_id: RunId,
        policy: Policy,
        written: WrittenPolicy,
        broker: Broker,
        worker: Worker,
        question: str,
        contexts: Mapping[str, InputValue],
        meter: Meter,
        *,
        tenant: str = "",
        image: StartingState | None = None,
        outputs: Outputs | None = None,
        file_names: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        cache: ResponseCache | None = None,
        guidance: Guidance = NO_GUIDANCE,
        hook: CellJudge | None = None,
        tools: ToolFacts = NO_TOOL_FACTS,
        output: AnswerCheck | None = None,
    ) -> None:
        self.run_id = run_id
        self._policy = policy
        self._written = written
        self._broker = broker
        self._worker = worker
        self._question = question
        self._contexts = contexts
        self._files = files_of(contexts, file_names)
        self._meter = meter
        self._cache = cache
        self._tools = tools
        self._output = output
        self._tenant = tenant
        self._image = image
        self._start = start = None if image is None else image.state_for(tenant)
        self._start_inputs = inputs = None if image is None else image.inputs
        root = ConversationPlace(
            run_id, tenant, depth=0, parent=None, model=policy.models.root, start=start, start_inputs=inputs
        )
        # What came with the question, and all of it: the policy's first.
        self._guidance = guidance
        self._hook = hook
        told = policy.own_guidance().followed_by(guidance)
        self._told_children = told if policy.guidance and policy.guidance.children else NO_GUIDANCE
        self._root = Conversation(
            root,
            policy,
            broker,
            worker,
            question,
            contexts,
            meter,
            outputs,
            files=self._files,
            watch=watch,
            guidance=told,
            hook=hook,
            tools=tools,
            output=output,
        )
        self._children: dict[RequestId, Conversation] = {}
        # What stood around the sessions of all conversations that are over, by the word.
        self._lockdowns: set[str] = set()
        self._drivers: TaskPool[Conversation] = TaskPool(lambda child, _: self._drive_child(child))

    def end(self, stop: StopReason) -> None:
        """Stop what the run is doing now and let it finish with the best answer there is."""
        self._root.end(stop)

    def end_hand_out(self) -> None:
        """Stop handing the files out of a run that a limit has ended: nothing else of it goes on."""
        self._root.end_hand_out()

    def start_child(self, effect: StartChild) -> None:
        """Drive a child's conversation, beside those that are under way."""
        number, depth = effect.request_id, effect.depth
        place = ConversationPlace(
            self.run_id,
            self._tenant,
            depth,
            number,
            effect.model,
            self._start,
            self._start_inputs,
            effect.answer_bytes_max,
        )
        contexts = {DEFAULT_NAME: effect.question}
        question = child_question(effect.question)
        child = Conversation(
            place,
            self._policy,
            self._broker,
            self._worker,
            question,
            contexts,
            self._meter,
            guidance=self._told_children,
            hook=self._hook,
            tools=self._tools,
        )
        self._children[number] = child
        self._drivers.give(child)

    def stop_child(self, effect: StopChild) -> None:
        """Stop what a child is doing now and let it finish with the best answer there is."""
        child = self._children.get(effect.request_id)
        if child is not None:
            child.end(effect.stop)

    async def drive(self) -> RunResult:
        """Run to the end. Raises what `Runtime.ask` lists if the root cannot have its session.

        When this returns, or raises, nothing of the run is left: no task, session, timer or permit.
        """
        began_ns = self._broker.clock()
        outcome = StopReason.failed()
        result: RunResult | None = None
        try:
            described = await description(
                self._written,
                self._question,
                self._contexts,
                self._image,
                files=self._files,
                guidance=self._guidance,
                hook=self._hook is not None,
                tools=self._tools,
                output=self._output,
            )
            self._note("run_described", described)
            finish = await self._until_finish()
            outcome = finish.stop
            await self._broker.turn(None)
            self._note("run_answered", self._answered(finish))
            spent = {d.value: view.spent for d, view in self._broker.budget_view(self.run_id).items()}
            wall_ms = (self._broker.clock() - began_ns) // 1_000_000
            grade = weakest(map(Grade, self._lockdowns | self._root.lockdowns))
            result = RunResult(
                self.run_id,
                finish.answer,
                finish.stop,
                spent,
                wall_ms,
                "" if grade is None else grade.value,
                prices=self._policy.prices_in_force(),
                answered_by=self._broker.answered_by(self.run_id),
                transcript=self._root.transcript.turns,
                cached=self._broker.cached(self.run_id),
                cache_fault=None if self._cache is None else self._cache.fault,
                hook_error=None if self._hook is None else self._hook.error,
                value=finish.value,
                checked=finish.checked,
                problems=finish.problems,
            )
        finally:
            with anyio.CancelScope(shield=True):
                unwritten = await self._broker.finish_run(RunEnded(self.run_id, outcome), self.run_id)
        return result if unwritten is None else replace(result, unwritten=unwritten)

    def _note(self, kind: str, data: dict[str, object]) -> None:
        self._broker.submit(Noted(self.run_id, kind, data))

    def _answered(self, finish: Conclusion) -> dict[str, object]:
        texts = self._policy.events.texts
        data: dict[str, object] = {
            "partial": finish.partial,
            "reason": finish.stop.logged(texts=texts),
            "answer_bytes": answer_bytes(finish.answer),
        }
        if texts and finish.answer is not None:
            data["answer"] = finish.answer
        return data

    async def _until_finish(self) -> Conclusion:
        """Drive the root's conversation with its children beside it; at its end none of them goes on."""
        finish: Conclusion | None = None
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._drivers.run)
                try:
                    finish = await self._root.drive()
                except Exception as error:  # noqa: BLE001 - raised again below, without the group's wrapping
                    failure = error
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # A bug of ours in a child ends the run. Who called wants it as it was raised.
            bug: BaseException = group
            while isinstance(bug, BaseExceptionGroup) and len(bug.exceptions) == 1:
                bug = bug.exceptions[0]
            raise bug from None
        if failure is not None:
            raise failure
        if finish is None:
            raise InternalError("a run ended without a finish")
        return finish

    async def _drive_child(self, child: Conversation) -> None:
        request_id = child.place.parent
        if request_id is None:
            raise InternalError("the root is nobody's child")
        answer: str | None = None
        error: QueryError = ChildFailed("it was cancelled")
        try:
            try:
                finish = await child.drive()
                most = child.place.answer_bytes_max
                size = 0 if finish.answer is None or most is None else text_bytes(finish.answer, most)
                if most is not None and size > most:
                    key = "its part of boundary.response_bytes_max"
                    error = ChildFailed(f"the child's answer takes {size} bytes, {most} allowed: {key}")
                elif finish.partial or finish.answer is None:
                    error = ChildFailed(f"the child ended early: {finish.stop}", partial=finish.answer)
                else:
                    answer = finish.answer
            except _NO_SESSION as problem:
                error = ChildFailed(f"the child could not begin: {problem.message}")
            await self._broker.turn(request_id)
        finally:
            del self._children[request_id]
            self._lockdowns |= child.lockdowns
            told = None if answer is not None else error
            self._broker.submit(ChildFinished(self.run_id, request_id, answer, told))
