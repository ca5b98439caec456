"""The scheduler's state of one run: its conversations and its open requests."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from rlm_wasm.errors import BudgetExceeded, InternalError
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import reserve_of
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.conversation import ConversationState
from rlm_wasm.scheduler.event_recorder import EventRecorder
from rlm_wasm.scheduler.inputs import QueryReceived, RunStarted, ToolCalled
from rlm_wasm.scheduler.ledger import NOTHING, Charge, Dimension, Ledger
from rlm_wasm.scheduler.messages import CacheUse
from rlm_wasm.scheduler.request import Completed, RequestState, RequestStep, next_state
from rlm_wasm.scheduler.window import ModelWindow

NS_PER_MS: Final = 1_000_000
RUN_DEADLINE: Final = "run_deadline"


@dataclass(slots=True)
class OpenRequest:
    """One query without a terminal response yet. `charge` is what one attempt may cost, whoever answers."""

    query: QueryReceived
    conversation: ConversationState
    charge: Charge
    timeout_ms: int
    deadline_ns: int
    deadline_timer: str
    # The models that may still answer, in order: the first is asked, the next one where that does not answer.
    models: tuple[str, ...]
    size: int  # of the prompt, as prompt_bytes has it
    state: RequestState = RequestState.RECEIVED
    attempt: int = 0  # number of the attempt under way, or of the last one
    sent_ns: int = 0  # when it began
    billed: Charge = NOTHING  # over all attempts, so far
    assumed: bool = False  # whether `billed` holds a reservation instead of a bill
    # An answer that a cap cut off, while a larger one is tried: it stands if that comes to nothing.
    cut: Completed | None = None
    # What came of asking a cache for the answer.
    cache: CacheUse | None = None
    tries: int = 0  # how many attempts of the first model there were
    _reservation: int | None = None

    @property
    def request_id(self) -> RequestId:
        """The host's number for it."""
        return self.query.request_id

    @property
    def model(self) -> str:
        """The one that is asked."""
        return self.models[0]

    @property
    def backoff_timer(self) -> str:
        """The timer that sends it back to the queue."""
        return f"query_backoff:{self.request_id}"

    def step(self, step: RequestStep) -> None:
        """Move on by the table."""
        self.state = next_state(self.state, step)

    def hold(self, reservation: int) -> None:
        """Keep the reservation of the next attempt and move to the queue."""
        self.step(RequestStep.RESERVE)
        self._reservation = reservation

    def take_reservation(self) -> int:
        """Hand the reservation over to whoever ends it; there is one to take once per attempt."""
        reservation, self._reservation = self._reservation, None
        if reservation is None:
            raise InternalError(f"request {self.request_id} holds no reservation")
        return reservation

    def bill(self, charge: Charge, *, assumed: bool) -> None:
        """Add one attempt's cost to the request's own sum, which its last event reports."""
        self.billed = charge if self.billed is NOTHING else self.billed.plus(charge)
        self.assumed = self.assumed or assumed


@dataclass(slots=True)
class OpenCall:
    """One call of a tool without a terminal response yet. `charge` is its price."""

    given: ToolCalled
    conversation: ConversationState
    charge: Charge
    timeout_ms: int
    reservation: int

    @property
    def deadline_timer(self) -> str:
        """The timer that ends it."""
        return f"tool_deadline:{self.given.request_id}"


@dataclass(slots=True)
class RunState:
    """One run: its limits, its account, its events, what is open.

    `children` are the conversations below the root's, until their sessions are gone. `unconfirmed`
    maps the attempts that were cancelled in flight to their reservations, for late results; calls are
    budgeted, so it is bounded. `stopping` is why the run must end, once it must.
    """

    facts: RunStarted
    ledger: Ledger
    recorder: EventRecorder
    root: ConversationState
    children: dict[RequestId, ConversationState] = field(default_factory=dict)
    requests: dict[RequestId, OpenRequest] = field(default_factory=dict)
    calls: dict[RequestId, OpenCall] = field(default_factory=dict)
    timers: dict[str, RequestId | None] = field(default_factory=dict)
    unconfirmed: dict[tuple[RequestId, int], tuple[OpenRequest, int]] = field(default_factory=dict)
    stopping: StopReason | None = None
    # How many answers each model gave, and how many of them a cache had.
    cached: int = 0
    answered_by: Counter[str] = field(default_factory=Counter)
    # Of each model that anything is known of.
    windows: dict[str, ModelWindow] = field(default_factory=dict)
    # How often each tool was called.
    tool_calls: Counter[str] = field(default_factory=Counter)
    # Whether the question for the best answer was asked, or may not be any more.
    last_asked: bool = False

    @classmethod
    def begin(cls, facts: RunStarted, now_ns: int) -> RunState:
        """Return the state of a run that has just started."""
        recorder = EventRecorder(facts.run_id, facts.run.events_max, now_ns)
        kept = reserve_of(facts.budget, facts.run.reserve_percent)
        ledger = Ledger(facts.budget, Charge(**{name.removesuffix("_max"): n for name, n in kept.items()}))
        root = ConversationState(
            depth=0, view=ledger.root, deadline_ns=now_ns + facts.run.wall_ms_max * NS_PER_MS
        )
        windows = {model: ModelWindow(tokens) for model, tokens in facts.windows.items()}
        return cls(facts, ledger, recorder, root, windows=windows)

    @property
    def run_id(self) -> RunId:
        """The run's name."""
        return self.facts.run_id

    def conversation(self, parent: RequestId | None) -> ConversationState | None:
        """Return the conversation that answers `parent`, or None if its session is gone."""
        return self.root if parent is None else self.children.get(parent)

    def window(self, model: str) -> ModelWindow:
        """Return what is known of the window of a model that the run may ask."""
        return self.windows.setdefault(model, ModelWindow())

    def wait_ms_max(self) -> int:
        """Return how long a guest may wait for one request."""
        return self.facts.boundary.host_wait_ms_max

    def count_request(self, conversation: ConversationState, *, of_guest: bool) -> None:
        """Count one request, refused or not, or raise BudgetExceeded: the run's or the cell's are used up.

        What the cell's cap refuses is counted in the run's all the same: a refusal costs the guest
        almost nothing and the host real work.
        """
        self.ledger.spend_one(Dimension.REQUESTS, conversation.view)
        if of_guest:
            conversation.cell_requests += 1
            most = self.facts.cell_requests_max
            if conversation.cell_requests > most:
                raise BudgetExceeded("cell.requests", requested=1, available=0, limit=most)

    def room(self, conversation: ConversationState, count: int) -> int:
        """Return how many of so many requests of a guest that come together are worth looking at.

        For the others nothing is left: not of the cell's requests, or not of the run's.
        """
        left = self.ledger.available(Dimension.REQUESTS, conversation.view)
        room = max(0, min(count, left, self.facts.cell_requests_max - conversation.cell_requests))
        # Where one that is refused has all refused, there is no use in looking at any.
        return room if room == count or self.facts.query.batch == "part" else 0

    def count_surplus(self, conversation: ConversationState, count: int) -> list[tuple[BudgetExceeded, int]]:
        """Count requests beyond the room for them, and return why so many each are refused, in order."""
        view, most = conversation.view, self.facts.cell_requests_max
        left = self.ledger.available(Dimension.REQUESTS, view)
        counted, of_cell = min(count, left), max(0, most - conversation.cell_requests)
        by_run = self.ledger.refusal(Dimension.REQUESTS, view)
        by_cell = BudgetExceeded("cell.requests", requested=1, available=0, limit=most)
        self.ledger.spend(Charge(requests=counted), view)
        conversation.cell_requests += counted
        if self.facts.query.batch == "all":
            # All of them for what the first was refused for that did not fit.
            return [(by_cell if of_cell < left else by_run, count)]
        return [(why, number) for why, number in ((by_cell, counted), (by_run, count - counted)) if number]

    def in_flight(self, request_id: RequestId, attempt: int) -> OpenRequest | None:
        """Return the request if exactly this attempt of it is under way."""
        request = self.requests.get(request_id)
        if request is None or request.state is not RequestState.DISPATCHED or request.attempt != attempt:
            return None
        return request
