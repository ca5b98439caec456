"""Performs what the scheduler decides: the thin shell around `scheduler.scheduler`.

Everything happens on one event loop's thread; inputs are handled in the order they come in. The
broker holds no policy and makes no decision.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Generic, Protocol, TypeVar

import anyio

from rlm_wasm.engine.run_tools import ToolCaller, nobody_calls
from rlm_wasm.engine.task_pool import TaskPool
from rlm_wasm.engine.timers import Timers
from rlm_wasm.errors import ProviderError, RlmWasmError
from rlm_wasm.events import Event
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import PermitLimits
from rlm_wasm.outcomes import StopReason
from rlm_wasm.protocol.guest_frames import text_bytes
from rlm_wasm.providers.base import Completion, Provider, ProviderFailure, Query
from rlm_wasm.scheduler.ledger import Dimension, DimensionView
from rlm_wasm.scheduler.messages import TOKENS_PLAUSIBLE_MAX, Usage, cache_use_of, finish_of
from rlm_wasm.scheduler.pricing import usage_or_estimate
from rlm_wasm.scheduler.request import Cancelled, Response
from rlm_wasm.scheduler.scheduler import (
    BatchReceived,
    CallTool,
    CancelQuery,
    CancelTool,
    CellStarted,
    ChildRequested,
    ClearTimer,
    Effect,
    EmitEvent,
    EndRun,
    FuelWanted,
    GiveFuel,
    Input,
    ProviderAnswered,
    ProviderFailed,
    QueryReceived,
    RefuseSurplus,
    Respond,
    RunCancelled,
    RunStarted,
    Scheduler,
    SendQuery,
    SetTimer,
    StartChild,
    StopChild,
    Surplus,
    TimerFired,
    ToolCalled,
)

Sink = Callable[[Event], None]
# From a model's name in the policy to its provider and its name there.
Router = Callable[[str], tuple[Provider, str]]
# So many responses that are the same, in order.
Refusals = tuple[tuple[Response, int], ...]
# Takes the responses to a batch, in order, and those to its surplus.
Answered = Callable[[list[Response], Refusals], None]
# Takes what a cell may use from now on.
Fuelled = Callable[[int], None]
# A cancelled provider call has this long to close its connection before its run is over without it.
HANG_UP_SECONDS_MAX: Final = 5.0
_Attempt = tuple[RunId, RequestId, int]


class Driver(Protocol):
    """What drives the conversations of a run. Called on the event loop's thread; must not raise."""

    def end(self, stop: StopReason) -> None:
        """Finish the run with the best answer there is. Called once if the scheduler wants it."""

    def start_child(self, effect: StartChild) -> None:
        """Drive a child's conversation, and submit its ChildFinished."""

    def stop_child(self, effect: StopChild) -> None:
        """Finish a child with the best answer it has."""


class _Batch:
    """Requests that were asked together, and who wants their responses."""

    __slots__ = ("_answered", "_missing", "_refusals", "_responses")

    def __init__(self, numbers: Sequence[RequestId], surplus: int, answered: Answered) -> None:
        self._responses: dict[RequestId, Response | None] = dict.fromkeys(numbers)
        self._refusals: Refusals = ()
        self._missing = len(numbers) + surplus
        self._answered = answered

    def put(self, number: RequestId, response: Response) -> None:
        """Take the one response of one request; with the last one, hand over all, as they were asked."""
        self._responses[number] = response
        self._came(1)

    def refuse(self, refusals: Refusals) -> None:
        """Take the responses to the surplus."""
        self._refusals = refusals
        self._came(sum(times for _, times in refusals))

    def _came(self, count: int) -> None:
        self._missing -= count
        if not self._missing:
            responses = [response for response in self._responses.values() if response is not None]
            self._answered(responses, self._refusals)


_Outside = TypeVar("_Outside", SendQuery, CallTool)


class _Sent(Generic[_Outside]):
    """A call of a provider or a tool under way, or about to be."""

    __slots__ = ("cancelled", "effect", "gone", "scope")

    def __init__(self, effect: _Outside) -> None:
        self.effect: _Outside = effect
        self.cancelled = False
        self.scope: anyio.CancelScope | None = None  # of the task that makes the call
        self.gone: anyio.Event | None = None  # made for whoever waits for it

    def will_be_gone(self) -> anyio.Event:
        """Return what is set when the call has ended. To be asked while it has not."""
        self.gone = self.gone or anyio.Event()
        return self.gone

    def cancel(self) -> bool:
        """Stop the call, or keep it from being made; return whether it was in time for that."""
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel()
        return self.scope is None


@dataclass(slots=True)
class _Run:
    """What the broker keeps for an open run."""

    route: Router
    sinks: tuple[Sink, ...]
    driver: Driver
    tools: ToolCaller
    # Why the first sink that failed did; its events are incomplete.
    unwritten: StopReason | None = None
    waiting: dict[RequestId, _Batch] = field(default_factory=dict)
    # The conversations whose cell waits for fuel, by the request that they answer.
    dry: dict[RequestId | None, Fuelled] = field(default_factory=dict)
    numbers: int = 0  # the last one that a request was given


class Broker:
    """One scheduler with its providers, timers and event sinks. Run `serve` in a task group.

    `clock` gives the nanoseconds the scheduler sees.
    """

    def __init__(self, permits: PermitLimits, clock: Callable[[], int]) -> None:
        self._scheduler: Final = Scheduler(permits)
        self.clock: Final = clock
        self._timers: Final = Timers(
            lambda run_id, timer_id: self.submit(TimerFired(run_id, timer_id)), clock
        )
        self._inputs: deque[Input] = deque()
        self._performing = False
        self._runs: dict[RunId, _Run] = {}
        self._sending: dict[_Attempt, _Sent[SendQuery]] = {}
        self._tasks: Final = TaskPool(self._send)
        self._calling: dict[tuple[RunId, RequestId], _Sent[CallTool]] = {}
        self._tool_tasks: Final = TaskPool(self._call)
        # By type, and not one case after another: seven of them are performed for a query.
        self._performs: Final[dict[type[Effect], Callable[[Any], None]]] = {
            EmitEvent: self._emit,
            Respond: self._respond,
            RefuseSurplus: self._refuse_surplus,
            SendQuery: self._send_soon,
            CancelQuery: self._cancel,
            SetTimer: self._set_timer,
            ClearTimer: self._clear_timer,
            CallTool: self._call_soon,
            CancelTool: self._cancel_call,
            StartChild: self._start_child,
            StopChild: self._stop_child,
            GiveFuel: self._give_fuel,
            EndRun: self._end_run,
        }

    @property
    def idle(self) -> bool:
        """Whether nothing is open: no run, no query in flight, no timer, no permit."""
        return not (
            self._runs or self._sending or self._calling or len(self._timers) or self._scheduler.permits_held
        )

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Perform effects until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tasks.run)
            tasks.start_soon(self._tool_tasks.run)
            tasks.start_soon(self._timers.run)
            task_status.started()

    def start_run(
        self,
        started: RunStarted,
        route: Router,
        sinks: Iterable[Sink],
        driver: Driver,
        tools: ToolCaller = nobody_calls,
    ) -> None:
        """Open a run, whose conversations `driver` drives, and the calls of whose tools `tools` makes."""
        self._runs[started.run_id] = _Run(route, tuple(sinks), driver, tools)
        self.submit(started)

    async def finish_run(self, ended: Input, run_id: RunId) -> StopReason | None:
        """Close a run with `ended` and forget it; return when its provider calls have hung up.

        Returns why its events are incomplete somewhere, if a sink failed: the last event's, too.
        """
        self.submit(ended)
        run = self._runs.pop(run_id)
        # The scheduler answers every request before it closes a run; nobody is left to wait.
        for number, batch in run.waiting.items():
            batch.put(number, Cancelled("the run ended"))
        with anyio.move_on_after(HANG_UP_SECONDS_MAX):
            # Each before the first wait: a call that is gone by its turn would never say so.
            going = [sent.will_be_gone() for key, sent in self._sending.items() if key[0] == run_id]
            going += [calling.will_be_gone() for key, calling in self._calling.items() if key[0] == run_id]
            for gone in going:
                await gone.wait()
        return run.unwritten

    def next_request(self, run_id: RunId, count: int = 1) -> RequestId:
        """Return a number that no request of this run has had, the first of so many."""
        run = self._runs[run_id]
        first = run.numbers + 1
        run.numbers += count
        return RequestId(first)

    def room(self, run_id: RunId, parent: RequestId | None, count: int) -> int:
        """Return how many of so many requests are worth asking one by one; the others are surplus."""
        return self._scheduler.room(run_id, parent, count)

    def budget_view(self, run_id: RunId, parent: RequestId | None = None) -> dict[Dimension, DimensionView]:
        """Return the account of an open run, as one of its conversations sees it."""
        return self._scheduler.budget_view(run_id, parent)

    def answered_by(self, run_id: RunId) -> dict[str, int]:
        """Return how many answers each model has given in an open run."""
        return self._scheduler.answered_by(run_id)

    def cached(self, run_id: RunId) -> int:
        """Return how many answers of an open run a cache had."""
        return self._scheduler.cached(run_id)

    def standing(self, run_id: RunId, parent: RequestId | None) -> dict[str, DimensionView]:
        """Return all that bounds a conversation, for its guest to see."""
        return self._scheduler.standing(run_id, parent, self.clock())

    async def query(self, received: QueryReceived) -> Response:
        """Submit a query and wait for its one terminal response."""
        came = anyio.Event()
        box: list[Response] = []

        def answered(responses: list[Response], refusals: Refusals) -> None:
            box.extend(responses)
            came.set()

        self.ask(received.run_id, [received], answered)
        await came.wait()
        return box[0]

    def ask(
        self,
        run_id: RunId,
        batch: Sequence[QueryReceived | ChildRequested | ToolCalled],
        answered: Answered,
        surplus: Surplus | None = None,
    ) -> None:
        """Submit requests of one conversation together; `answered` is called once, when all are answered.

        It is called on the event loop's thread, perhaps before this returns, and must not raise.
        """
        numbers = [received.request_id for received in batch]
        waiting = self._runs[run_id].waiting
        asked = _Batch(numbers, surplus.requests if surplus else 0, answered)
        waiting.update(dict.fromkeys(numbers, asked))
        if surplus is not None:
            waiting[surplus.first] = asked
        elif len(batch) == 1:
            self.submit(batch[0])
            return
        self.submit(BatchReceived(run_id, tuple(batch), surplus))

    def ask_fuel(self, given: CellStarted | FuelWanted, fuelled: Fuelled) -> None:
        """Reserve fuel for a conversation's cell; `fuelled` is called once, with how much that is.

        It is called before this returns, except from within an event sink, and must not raise.
        """
        self._runs[given.run_id].dry[given.parent] = fuelled
        self.submit(given)

    def submit(self, given: Input) -> None:
        """Let the scheduler decide about one input, and do what it says.

        Called while an effect is performed (an event sink that cancels the run), the input waits
        its turn: an effect must not overtake those before it.
        """
        self._inputs.append(given)
        if self._performing:
            return
        self._performing = True
        try:
            while self._inputs:
                self._handle(self._inputs.popleft())
        finally:
            self._performing = False

    def _handle(self, given: Input) -> None:
        for effect in self._scheduler.handle(given, self.clock()):
            self._performs[type(effect)](effect)

    async def turn(self, parent: RequestId | None) -> None:
        """Wait until a conversation may act: not at all, here. Another broker may keep an order."""

    def at_turn(self, parent: RequestId | None, act: Callable[[], object]) -> None:
        """Call `act` when a conversation may act: now."""
        act()

    def stirs(self, parent: RequestId | None) -> None:
        """A conversation is woken from whatever it waits for here."""

    def _emit(self, effect: EmitEvent) -> None:
        event = effect.event
        run = self._runs[event.run_id]
        for sink in run.sinks:
            try:
                sink(event)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 - one run's sink must not end the others
                # Any: the result of a cancelled future is a CancelledError, which in a task of ours would
                # pass for that task's own cancellation.
                # A run whose events cannot be written is not one that may go on unseen.
                run.sinks = tuple(each for each in run.sinks if each is not sink)
                what = str(error) if isinstance(error, RlmWasmError) else f"{type(error).__name__}: {error}"
                lost = StopReason.events_lost(what)
                run.unwritten = run.unwritten or lost
                # The scheduler ends it: whatever is in flight then is settled before the result tells it.
                self.submit(RunCancelled(event.run_id, lost))

    def _respond(self, effect: Respond) -> None:
        run = self._runs.get(effect.run_id)
        batch = run.waiting.pop(effect.request_id, None) if run else None
        if batch is not None:
            batch.put(effect.request_id, effect.response)

    def _refuse_surplus(self, effect: RefuseSurplus) -> None:
        run = self._runs.get(effect.run_id)
        batch = run.waiting.pop(effect.first, None) if run else None
        if batch is not None:
            batch.refuse(effect.refusals)

    def _give_fuel(self, effect: GiveFuel) -> None:
        run = self._runs.get(effect.run_id)
        fuelled = run.dry.pop(effect.parent, None) if run else None
        if fuelled is not None:
            fuelled(effect.fuel)

    def _send_soon(self, effect: SendQuery) -> None:
        sent = self._sending[effect.run_id, effect.request_id, effect.attempt] = _Sent(effect)
        self._tasks.give(sent)

    def _cancel(self, effect: CancelQuery) -> None:
        sending = self._sending.get((effect.run_id, effect.request_id, effect.attempt))
        if sending is not None and sending.cancel():
            # Known for certain: the reservation comes back.
            unsent = ProviderError("cancelled before it was sent")
            self.submit(ProviderFailed(*effect, unsent, retryable=False, sent=False))

    def _set_timer(self, effect: SetTimer) -> None:
        self._timers.set(effect.run_id, effect.timer_id, effect.at_ns)

    def _clear_timer(self, effect: ClearTimer) -> None:
        self._timers.clear(effect.run_id, effect.timer_id)

    def _call_soon(self, effect: CallTool) -> None:
        calling = self._calling[effect.run_id, effect.request_id] = _Sent(effect)
        self._tool_tasks.give(calling)

    def _cancel_call(self, effect: CancelTool) -> None:
        if (calling := self._calling.get((effect.run_id, effect.request_id))) is not None:
            calling.cancel()

    async def _call(self, calling: _Sent[CallTool], scope: anyio.CancelScope) -> None:
        effect = calling.effect
        try:
            run = self._runs.get(effect.run_id)
            if run is not None and not calling.cancelled:
                calling.scope = scope
                self.submit(await run.tools(effect))
        finally:
            del self._calling[effect.run_id, effect.request_id]
            if calling.gone is not None:
                calling.gone.set()

    def _start_child(self, effect: StartChild) -> None:
        self._runs[effect.run_id].driver.start_child(effect)

    def _stop_child(self, effect: StopChild) -> None:
        if (run := self._runs.get(effect.run_id)) is not None:
            run.driver.stop_child(effect)

    def _end_run(self, effect: EndRun) -> None:
        self._runs[effect.run_id].driver.end(effect.stop)

    async def _send(self, sent: _Sent[SendQuery], scope: anyio.CancelScope) -> None:
        effect = sent.effect
        try:
            if not sent.cancelled:
                sent.scope = scope
                self.submit(await self._attempt(effect))
        finally:
            del self._sending[effect.run_id, effect.request_id, effect.attempt]
            if sent.gone is not None:
                sent.gone.set()

    async def _attempt(self, effect: SendQuery) -> ProviderAnswered | ProviderFailed:
        run_id, number, attempt = effect.run_id, effect.request_id, effect.attempt
        run = self._runs.get(run_id)
        if run is None:
            over = ProviderError("the run is over")
            return ProviderFailed(run_id, number, attempt, over, retryable=False, sent=False)
        try:
            provider, model = run.route(effect.model)
            query = Query(model, effect.messages, effect.output_tokens_max, effect.timeout_ms)
            completion = await provider.complete(query)
            if not isinstance(completion.text, str):
                raise TypeError("a completion's text is a str")
            most = effect.answer_bytes_max
            if (size := text_bytes(completion.text, most)) > most:
                too_much = ProviderError(
                    f"the answer takes {size} bytes, {most} allowed: query.response_bytes_max, "
                    "or its part of boundary.response_bytes_max"
                )
                return ProviderFailed(run_id, number, attempt, too_much, retryable=False, sent=True)
            cache = cache_use_of(completion.cache)
            usage = None if cache == "hit" else _usage(completion, effect)
        except ProviderFailure as failure:
            return ProviderFailed(
                run_id,
                number,
                attempt,
                failure.error,
                retryable=failure.retryable,
                sent=failure.sent,
                retry_after_ms=failure.retry_after_ms,
                throttled=failure.throttled,
                usage=_usage_of_nothing(failure),
            )
        except BaseException as error:
            # A provider's bug must not end other runs. Nor must a cancellation that nobody here asked for, as
            # of a task of the provider's own: it would be taken for the end of all senders.
            cancelled = isinstance(error, anyio.get_cancelled_exc_class())
            ours = cancelled and anyio.current_effective_deadline() == -inf
            if ours or not (cancelled or isinstance(error, Exception)):
                raise
            # Its text may hold anything, a key included: only the type is told.
            broken = ProviderError(f"the provider failed with {type(error).__name__}")
            return ProviderFailed(run_id, number, attempt, broken, retryable=False, sent=True)
        finish = finish_of(completion.finish)
        return ProviderAnswered(run_id, number, attempt, completion.text, usage, finish, cache)


def _usage(completion: Completion, effect: SendQuery) -> Usage:
    thoughts = completion.thought_bytes
    return usage_or_estimate(
        (_believed(completion.input_tokens), _believed(completion.output_tokens)),
        effect.messages,
        completion.text,
        thought_bytes=thoughts if type(thoughts) is int and thoughts > 0 else 0,
        output_tokens_max=effect.output_tokens_max,
    )


def _usage_of_nothing(failure: ProviderFailure) -> Usage | None:
    """Return what was stated of work that came to nothing: of the rest of it nobody can tell."""
    given, made = _believed(failure.input_tokens), _believed(failure.output_tokens)
    return None if given is None or made is None else Usage(given, made)


def _believed(tokens: object) -> int | None:
    # A provider of an embedder's own may state anything; what is no count is not believed.
    return tokens if type(tokens) is int and 0 <= tokens <= TOKENS_PLAUSIBLE_MAX else None
