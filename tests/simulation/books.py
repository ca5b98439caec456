"""An independent account of everything the scheduler is told and everything it decides.

The books see inputs and effects, nothing else. They do the sums again, in their own way, and note where
the scheduler differs; what it says about itself is only compared. The numbers of the invariants are those
of the design: reserve before send (1), permits (2), one terminal response (3), order and bytes (4), zero
at the end (5), bounded observations (6), equal accounts (7), nothing stuck (8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rlm_wasm.engine.broker import Refusals
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import PermitLimits
from rlm_wasm.outcomes import StopKind
from rlm_wasm.scheduler.effects import (
    CancelQuery,
    ClearTimer,
    Effect,
    EmitEvent,
    EndRun,
    GiveFuel,
    RefuseSurplus,
    Respond,
    SendQuery,
    SetTimer,
    StartChild,
    StopChild,
)
from rlm_wasm.scheduler.inputs import (
    BatchReceived,
    CellStarted,
    ChildFinished,
    ChildRequested,
    FuelUsed,
    Input,
    IterationStarted,
    ObservationMade,
    ProviderAnswered,
    ProviderFailed,
    QueryReceived,
    RunCancelled,
    RunEnded,
    RunStarted,
    Surplus,
    TimerFired,
)
from rlm_wasm.scheduler.messages import FinishReason, Usage
from rlm_wasm.scheduler.request import Cancelled, Completed, Denied
from tests.simulation.accounts import OPEN, OPEN_QUERY, Amounts, Node, Request, RunAccount, cost

# A timer may be noticed so much after it was due: virtual lateness, and rounds of callbacks.
LATE_NS_MAX: Final = 100_000_000
# A child that is told to stop is gone soon: the worker's other guests have their slices before it.
STOP_NS_MAX: Final = 50_000_000
_TOKENS_BELIEVED_MAX: Final = 10**9
Asked = QueryReceived | ChildRequested


class Books:
    """Call `took` after each input, with its effects. `wrong` gathers what must not be."""

    def __init__(self, permits: PermitLimits) -> None:
        self.permits: Final = permits
        self.runs: dict[RunId, RunAccount] = {}
        self.ended: dict[RunId, RunAccount] = {}
        self.wrong: list[str] = []
        self.inputs = 0
        self.sends: list[SendQuery] = []
        self.withheld = False  # the world keeps a permit back: for once somebody waits in vain
        self._throttled: set[str] = set()  # providers that ever asked for fewer requests
        self._now_ns = 0

    def took(self, given: Input, effects: list[Effect], now_ns: int, view: Callable[..., Any]) -> None:
        """Account for one input and check everything that must hold after it."""
        self.inputs += 1
        self._now_ns = max(self._now_ns, now_ns)
        before = len(self.wrong)
        self._given(given)
        for effect in effects:
            self._effect(effect)
        self._after(given, effects)
        self._accounts_agree(view)
        self._nobody_waits_in_vain()
        self.withheld = False
        if len(self.wrong) > before:
            self.wrong[before] += f" [at input {self.inputs}: {str(given)[:200]}]"

    def check(self, holds: bool, what: str) -> None:
        """Note `what` if it does not hold."""
        if not holds:
            self.wrong.append(what)

    @property
    def flying(self) -> int:
        """How many attempts hold a permit."""
        return len(self._flying())

    def _flying(self) -> list[tuple[RunId, Request]]:
        return [
            (run_id, request)
            for run_id, run in self.runs.items()
            for request in run.requests.values()
            if request.where == "flying"
        ]

    # -- inputs -------------------------------------------------------------------------------------

    def _given(self, given: Input) -> None:
        if isinstance(given, RunStarted):
            self.check(given.run_id not in self.runs, "4: a run started twice")
            self.runs[given.run_id] = RunAccount(given, self._now_ns)
            return
        run = self.runs.get(given.run_id)
        if run is None:
            return
        match given:
            case QueryReceived(origin="last"):
                self._new(run, given)
                run.admit_last(given, self._now_ns)
            case QueryReceived() | ChildRequested():
                self._new(run, given)
                run.admit(given, self._now_ns)
            case BatchReceived(items=items, surplus=surplus):
                self._batch(run, items)
                if surplus is not None:
                    self._surplus(run, surplus)
            case ProviderAnswered(request_id=number, attempt=attempt):
                self._reported(run, number, attempt, self._answer_bill(run, given), "answering")
                if run.requests[number].where == "answering" and given.finish is FinishReason.LENGTH:
                    run.lengthen(number)
            case ProviderFailed(request_id=number, attempt=attempt):
                if given.throttled:
                    self._throttled.add(_provider(run.requests[number]))
                becomes = "answering" if run.requests[number].longer else "failing"
                self._reported(run, number, attempt, None if given.sent else {}, becomes)
            case ChildFinished(request_id=number):
                self._child_finished(run, number)
            case TimerFired(timer_id=timer_id):
                self._fired(run, timer_id)
            case CellStarted(parent=node):
                if node in run.talks:
                    run.talks[node].cell_requests = run.talks[node].cell_children = 0
            case IterationStarted(parent=node):
                if run.live(node) and run.fits({"iterations": 1, "fuel": 1}, node):
                    run.pay({"iterations": 1}, node)
            case ObservationMade(bytes=size, parent=node):
                if run.live(node) and run.fits({"observation_bytes": size}, node):
                    run.pay({"observation_bytes": size}, node)
            case FuelUsed(fuel=fuel, parent=node):
                self.check(not run.talks[node].gone, f"5: a cell of {node}, which is gone, used fuel")
                given_fuel, run.talks[node].fuel = run.talks[node].fuel, None
                used = given_fuel if fuel is None else fuel
                within = given_fuel is not None and used is not None and used <= given_fuel
                self.check(within, f"1: a cell used {used} fuel and was given {given_fuel}")
                run.pay({"fuel": used or 0}, node)
            case RunEnded():
                run.ending = True
            case RunCancelled():
                run.no_last = True
            case _:
                pass  # the effects say the rest

    def _new(self, run: RunAccount, asked: Asked) -> None:
        self.check(asked.request_id not in run.requests, "3: a request number was used twice")
        talk = run.talks.get(asked.parent)
        self.check(talk is None or talk.depth == asked.depth, "4: a request from another depth")

    def _batch(self, run: RunAccount, items: tuple[Asked, ...]) -> None:
        for item in items:
            self._new(run, item)
        if run.facts.query.batch == "part":
            for item in items:
                run.admit(item, self._now_ns)
            return
        admitted: list[RequestId] = []
        for place, item in enumerate(items):
            if not run.admit(item, self._now_ns):
                for other in items[place + 1 :]:
                    run.refuse(other)
                for number in reversed(admitted):
                    run.take_back(number)
                return
            admitted.append(item.request_id)

    def _surplus(self, run: RunAccount, surplus: Surplus) -> None:
        """Take in what there should be no room for: counted one by one, as if each had come alone."""
        last = surplus.first + surplus.requests
        known = [number for number in run.requests if surplus.first <= number < last]
        self.check(not known, "4: a request number was used twice")
        live, fits = run.live(surplus.parent), 0
        for _ in range(surplus.requests if live else 0):
            fits += run.count(surplus.parent, of_guest=True)
        all_or_none = run.facts.query.batch == "all"
        self.check(fits == 0 or (all_or_none and fits < surplus.requests), "3: there is room for surplus")
        run.surplus[surplus.first] = (surplus.requests, live)

    def _surplus_refused(self, run: RunAccount, first: RequestId, refusals: Refusals) -> None:
        requests, live = run.surplus.pop(first, (0, False))
        told = sum(times for _, times in refusals)
        self.check(told == requests, f"3: {told} responses to a surplus of {requests}")
        kind = Denied if live else Cancelled
        self.check(all(isinstance(response, kind) for response, _ in refusals), "1: surplus was not refused")

    def _bill(self, run: RunAccount, number: RequestId, usage: Usage | None) -> Amounts | None:
        if usage is None or not all(
            0 <= tokens <= _TOKENS_BELIEVED_MAX for tokens in (usage.input_tokens, usage.output_tokens)
        ):
            return None
        asked = run.requests[number].asked
        return cost(run.facts.prices[str(asked.model)], usage.input_tokens, usage.output_tokens)

    def _answer_bill(self, run: RunAccount, given: ProviderAnswered) -> Amounts | None:
        return {} if given.cache == "hit" else self._bill(run, given.request_id, given.usage)

    def _reported(
        self, run: RunAccount, number: RequestId, attempt: int, bill: Amounts | None, becomes: str
    ) -> None:
        request = run.requests[number]
        if request.where == "flying" and request.attempts == attempt:
            run.pay(request.bound if bill is None else bill, request.node)
            request.where = becomes
        elif (number, attempt) in run.late and (number, attempt) not in run.corrected:
            run.corrected.add((number, attempt))
            if bill is not None:
                bound = run.late[number, attempt]
                less = {name: min(bound[name], bill.get(name, 0)) for name in bound}
                run.pay(bound, request.node, -1)
                run.pay(less, request.node)

    def _child_finished(self, run: RunAccount, number: RequestId) -> None:
        talk, request = run.talks[number], run.requests[number]
        self.check(not talk.gone, "3: a child finished twice")
        if talk.told:
            late = self._now_ns > talk.told_ns + STOP_NS_MAX
            self.check(not late, f"8: child {number} went on after it was told to stop")
        talk.gone = talk.stopping = True
        if request.where == "running":
            request.where = "answering"

    def _fired(self, run: RunAccount, timer_id: str) -> None:
        at_ns = run.timers.pop(timer_id, None)
        if at_ns is None:
            return
        self.check(self._now_ns >= at_ns, f"4: the timer {timer_id} fired before its time")
        self.check(self._now_ns <= at_ns + LATE_NS_MAX, f"8: the timer {timer_id} fired late")
        kind, _, number = timer_id.partition(":")
        if kind == "query_backoff":
            request = run.requests[RequestId(int(number))]
            self.check(request.where == "backoff", "3: a backoff ended that was none")
            request.where = "queued" if run.fits(request.bound, request.node) else "refused"

    # -- effects ------------------------------------------------------------------------------------

    def _effect(self, effect: Effect) -> None:
        match effect:
            case SendQuery():
                self._sent(effect)
            case CancelQuery(run_id=run_id, request_id=number, attempt=attempt):
                run, request = self.runs[run_id], self.runs[run_id].requests[number]
                self.check(request.where == "flying", "2: an attempt was cancelled that did not fly")
                self.check(request.attempts == attempt, "3: another attempt was cancelled")
                request.where = "cancelled"
                run.late[number, attempt] = request.bound
                run.pay(request.bound, request.node)
            case StartChild():
                self._child_started(effect)
            case StopChild(run_id=run_id, request_id=number):
                talk = self.runs[run_id].talks[number]
                self.check(not talk.told, "3: a child was stopped twice")
                self.check(not talk.gone, "3: a child was stopped that is gone")
                talk.told = talk.stopping = True
                talk.told_ns = self._now_ns
            case GiveFuel(run_id=run_id, parent=node, fuel=fuel):
                self._fuel_given(self.runs[run_id], node, fuel)
            case Respond():
                self._responded(effect)
            case RefuseSurplus(run_id=run_id, first=first, refusals=refusals):
                run = self.runs.get(run_id) or self.ended.get(run_id)
                if run is not None:
                    self._surplus_refused(run, first, refusals)
            case SetTimer(run_id=run_id, timer_id=timer_id, at_ns=at_ns):
                self._timer_set(self.runs[run_id], timer_id, at_ns)
            case ClearTimer(run_id=run_id, timer_id=timer_id):
                self.check(timer_id in self.runs[run_id].timers, f"5: {timer_id} is cleared and was not set")
                self.runs[run_id].timers.pop(timer_id, None)
            case EmitEvent(event=event):
                found = self.runs.get(event.run_id)
                self.check(found is not None, "4: an event after the end of its run")
                if found is not None:
                    self.check(event.seq == found.seq, "4: a gap in the events")
                    self.check(event.at_ns >= found.at_ns, "4: an event before the one before it")
                    found.seq, found.at_ns = event.seq + 1, event.at_ns
                    if event.kind == "run_ended":
                        self._closed(found, event.data)
            case EndRun(run_id=run_id, stop=stop):
                run = self.runs[run_id]
                self.check(not run.ending, "3: a second EndRun")
                run.ending = True
                run.no_last = run.no_last or stop.kind not in (StopKind.BUDGET, StopKind.OVERDRAFT)

    def _fuel_given(self, run: RunAccount, node: Node, fuel: int) -> None:
        talk = run.talks[node]
        left = min(run.available("fuel", node), run.facts.cell_fuel_max - (talk.fuel or 0))
        self.check(0 <= fuel <= left, f"1: a cell is given {fuel} fuel, and {left} is left for it")
        self.check(fuel > 0 or left <= 0 or not run.live(node), "8: a cell is refused fuel that there is")
        if fuel:
            talk.fuel = (talk.fuel or 0) + fuel

    def _timer_set(self, run: RunAccount, timer_id: str, at_ns: int) -> None:
        self.check(timer_id not in run.timers, f"5: the timer {timer_id} is set twice")
        self.check(at_ns >= self._now_ns, f"8: the timer {timer_id} is set into the past")
        run.timers[timer_id] = at_ns
        kind, _, text = timer_id.partition(":")
        if kind == "query_backoff":
            request = run.requests[RequestId(int(text))]
            self.check(request.where == "failing", "2: a backoff of what did not fail")
            request.where = "backoff"

    def _sent(self, effect: SendQuery) -> None:
        run = self.runs[effect.run_id]
        request = run.requests[effect.request_id]
        asked = request.asked
        self.sends.append(effect)
        self.check(request.where == "queued", f"1: a {request.where} request was sent, with no reservation")
        request.where = "flying"
        request.attempts += 1
        self.check(effect.attempt == request.attempts, "3: attempts are counted in order")
        self.check(effect.attempt <= run.facts.query.attempts_max, "3: more attempts than allowed")
        capped = effect.output_tokens_max == request.bound["output_tokens"]
        self.check(capped, "1: sent without its token cap")
        same = isinstance(asked, QueryReceived) and effect.messages == asked.prompt_messages
        self.check(same and effect.model == asked.model, "4: something else than was asked")
        flying, limits = self._flying(), self.permits
        self.check(len(flying) <= limits.total_max, f"2: more than {limits.total_max} permits are held")
        of_tenant = sum(self.runs[run_id].facts.tenant == run.facts.tenant for run_id, _ in flying)
        self.check(of_tenant <= limits.tenant_max, "2: a tenant holds more than its share of permits")
        own = sum(run_id == effect.run_id for run_id, _ in flying)
        self.check(own <= run.facts.run.permits_max, "2: a run holds more than its share of permits")
        of_model = sum(other.asked.model == effect.model for _, other in flying)
        self.check(of_model <= limits.model_max, "2: a model has more than its permits")
        of_provider = sum(_provider(other) == _provider(request) for _, other in flying)
        self.check(of_provider <= limits.provider_max, "2: a provider has more than its permits")

    def _child_started(self, effect: StartChild) -> None:
        run = self.runs[effect.run_id]
        request, talk = run.requests[effect.request_id], run.talks.get(effect.request_id)
        self.check(request.where == "running" and talk is not None, "1: a child started that was refused")
        if talk is not None:
            self.check(talk.depth == effect.depth <= run.facts.run.depth_max, "1: a child too deep")
            open_ = sum(not other.gone for other in run.talks.values())
            self.check(open_ <= run.facts.run.sessions_max, "1: more sessions than the policy allows")

    def _responded(self, effect: Respond) -> None:
        run = self.runs.get(effect.run_id) or self.ended.get(effect.run_id)
        if run is None:
            self.check(False, "3: a response in a run that never was")
            return
        number, response = effect.request_id, effect.response
        count = run.responses.get(number, 0) + 1
        run.responses[number] = count
        self.check(count == 1, "3: a second terminal response")
        request = run.requests.get(number)
        if request is None:
            self.check(effect.run_id in self.ended, "3: a response nobody asked for")
            return
        self.check(request.where != "flying", "3: answered while it holds its permit and reservation")
        if isinstance(response, Completed):
            in_time = self._now_ns < request.deadline_ns
            stands = request.longer and not in_time and request.where in ("queued", "cancelled")
            self.check(stands or request.where == "answering", f"3: {request.where} and completed")
        elif request.where == "answering":
            self.check(request.is_child, "3: answered by its provider and not completed")
        if isinstance(response, Denied):
            self.check(request.where == "refused", "1: denied although it fits")
        if isinstance(response, Cancelled) and request.where == "refused":
            self.check(not run.live(request.node), "3: cancelled although its conversation goes on")
        if request.is_child and number in run.talks:
            run.talks[number].stopping = True
        request.where = "answered"

    def _closed(self, run: RunAccount, data: dict[str, object]) -> None:
        """The run's last event: everything is zero, and what it tells is what was spent."""
        open_ = [number for number, request in run.requests.items() if request.where in OPEN]
        self.check(not open_, f"3: the run ended before its requests {open_}")
        self.check(not run.timers, f"5: the run ended before its timers {sorted(run.timers)}")
        unanswered = run.requests.keys() - run.responses.keys()
        self.check(not unanswered, f"3: the run ended and {sorted(unanswered)} have no response")
        left = [node for node, talk in run.talks.items() if node is not None and not talk.gone]
        self.check(not left, f"5: the run ended before its children {left}")
        for name in run.root.limits:
            self.check(data.get(f"{name}_spent") == run.spent(name), f"7: run_ended tells other {name}")
        run.ended_ns = self._now_ns
        self.ended[run.facts.run_id] = self.runs.pop(run.facts.run_id)

    # -- after each input ---------------------------------------------------------------------------

    def _after(self, given: Input, effects: list[Effect]) -> None:
        self._refusals_came_at_once(given, effects)
        for run in self.runs.values():
            self.check(not run.surplus, "3: surplus without a response")
            waiting: set[Node] = set()
            for number, request in run.requests.items():
                open_ = request.where in OPEN
                self.check(open_ or request.where == "answered", f"3: {number} was left {request.where}")
                if open_:
                    live = run.live(request.node) or number == run.last
                    self.check(live, f"3: {number} outlives the conversation that asked")
                if request.where == "running":
                    waiting.add(request.node)
            for number, request in run.requests.items():
                if request.where == "flying":
                    self.check(
                        request.node not in waiting, f"2: {number} flies while its guest waits for a child"
                    )
            if isinstance(given, ProviderAnswered | FuelUsed) and given.run_id == run.facts.run_id:
                self.check(run.ending or not run.overdrawn(), "1: an overdraft that does not end its run")

    def _refusals_came_at_once(self, given: Input, effects: list[Effect]) -> None:
        items: tuple[Any, ...] = ()
        if isinstance(given, BatchReceived):
            items = given.items
        elif isinstance(given, Asked):
            items = (given,)
        answered = [(e.run_id, e.request_id) for e in effects if isinstance(e, Respond)]
        for item in items:
            run = self.runs.get(item.run_id)
            request = run.requests.get(item.request_id) if run else None
            refused = request is None or request.where in ("refused", "answered")
            count = answered.count((item.run_id, item.request_id))
            self.check(count == int(refused), "3: only a refused request is answered at once, and it is")

    def _accounts_agree(self, view: Callable[..., Any]) -> None:
        for run_id, run in self.runs.items():
            for dimension, line in view(run_id).items():
                name = str(dimension)
                theirs, ours = (line.spent, line.reserved), (run.spent(name), run.reserved(name))
                self.check(theirs == ours, f"7: {name} is {theirs} in the ledger and {ours} in the books")
            for node, talk in run.talks.items():
                if node is None or talk.gone:
                    continue
                for dimension, line in view(run_id, node).items():
                    left = run.available(str(dimension), node)
                    self.check(
                        line.available == left,
                        f"7: child {node} has {line.available} {dimension}, not {left}",
                    )

    def _nobody_waits_in_vain(self) -> None:
        flying, limits = self._flying(), self.permits
        for run_id, run in self.runs.items():
            own = sum(owner == run_id for owner, _ in flying)
            of_tenant = sum(self.runs[owner].facts.tenant == run.facts.tenant for owner, _ in flying)
            for number, request in run.requests.items():
                if request.where not in OPEN:
                    continue
                if request.where == "queued" and not self.withheld:
                    model = sum(other.asked.model == request.asked.model for _, other in flying)
                    provider = sum(_provider(other) == _provider(request) for _, other in flying)
                    fewest = (
                        limits.adaptive_min if _provider(request) in self._throttled else limits.provider_max
                    )
                    busy = (
                        len(flying) >= limits.total_max
                        or own >= run.facts.run.permits_max
                        or of_tenant >= limits.tenant_max
                        or model >= limits.model_max
                        or provider >= fewest
                    )
                    self.check(busy, f"8: {number} waits for a permit that is free")
                on_time = self._now_ns <= request.deadline_ns + LATE_NS_MAX
                self.check(on_time, f"8: {number} is {request.where} after its deadline")
                kind = "query_deadline" if request.where in OPEN_QUERY else "child_deadline"
                self.check(f"{kind}:{number}" in run.timers, f"8: {number} has no deadline")
                if request.where == "backoff":
                    self.check(f"query_backoff:{number}" in run.timers, f"8: {number} backs off for ever")


def _provider(request: Request) -> str:
    return str(request.asked.model).partition(":")[0]
