"""What the scheduler knows about one run and its open requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from rlm_wasm.core.inputs import QueryReceived, RunStarted
from rlm_wasm.core.journal import Journal
from rlm_wasm.core.ledger import Charge, Ledger
from rlm_wasm.core.request import State, Step, next_state
from rlm_wasm.errors import InternalError
from rlm_wasm.ids import RequestId, RunId

NS_PER_MS: Final = 1_000_000
RUN_DEADLINE: Final = "run_deadline"


@dataclass(slots=True)
class OpenRequest:
    """One request without a terminal response yet. `charge` is what one attempt may cost."""

    query: QueryReceived
    charge: Charge
    timeout_ms: int
    deadline_ns: int
    state: State = State.RECEIVED
    attempt: int = 0  # number of the attempt under way, or of the last one
    billed: Charge = field(default_factory=Charge)  # over all attempts, so far
    assumed: bool = False  # whether `billed` holds a reservation instead of a bill
    _reservation: int | None = None

    @property
    def request_id(self) -> RequestId:
        """The host's number for it."""
        return self.query.request_id

    @property
    def deadline_timer(self) -> str:
        """The timer that ends it."""
        return f"query_deadline:{self.request_id}"

    @property
    def backoff_timer(self) -> str:
        """The timer that sends it back to the queue."""
        return f"query_backoff:{self.request_id}"

    def step(self, step: Step) -> None:
        """Move on by the table."""
        self.state = next_state(self.state, step)

    def hold(self, reservation: int) -> None:
        """Keep the reservation of the next attempt and move to the queue."""
        self.step(Step.RESERVE)
        self._reservation = reservation

    def take_reservation(self) -> int:
        """Hand the reservation over to whoever ends it; there is one to take once per attempt."""
        reservation, self._reservation = self._reservation, None
        if reservation is None:
            raise InternalError(f"request {self.request_id} holds no reservation")
        return reservation

    def bill(self, charge: Charge, *, assumed: bool) -> None:
        """Add one attempt's cost to the request's own sum, which its last event reports."""
        self.billed = self.billed.plus(charge)
        self.assumed = self.assumed or assumed


@dataclass(slots=True)
class RunState:
    """One run: its limits, its account, its events, what is open.

    `unconfirmed` maps the attempts that were cancelled in flight to their reservations, for late
    results; calls are budgeted, so it is bounded. `stopping` is why the run must end, once it must.
    """

    facts: RunStarted
    ledger: Ledger
    journal: Journal
    requests: dict[RequestId, OpenRequest] = field(default_factory=dict)
    timers: dict[str, RequestId | None] = field(default_factory=dict)
    unconfirmed: dict[tuple[RequestId, int], tuple[QueryReceived, int]] = field(default_factory=dict)
    stopping: str | None = None

    @classmethod
    def begin(cls, facts: RunStarted, now_ns: int) -> RunState:
        """Return the state of a run that has just started."""
        journal = Journal(facts.run_id, facts.run.events_max, now_ns)
        return cls(facts, Ledger(facts.budget), journal)

    @property
    def run_id(self) -> RunId:
        """The run's name."""
        return self.facts.run_id

    def timeout_ms(self, query: QueryReceived) -> int:
        """Return how long a query may take, all of it: a guest also never waits beyond its host wait."""
        timeout_ms = self.facts.query.timeout_ms_max
        return (
            min(timeout_ms, self.facts.boundary.host_wait_ms_max) if query.origin == "guest" else timeout_ms
        )

    def in_flight(self, request_id: RequestId, attempt: int) -> OpenRequest | None:
        """Return the request if exactly this attempt of it is under way."""
        request = self.requests.get(request_id)
        if request is None or request.state is not State.DISPATCHED or request.attempt != attempt:
            return None
        return request
