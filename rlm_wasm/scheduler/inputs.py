"""The inputs: everything that can happen to the scheduler.

A run is a tree of conversations: the root's, and one for each child run. An input names the
conversation it is about by `parent`, the request that this conversation answers (None: the root's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from rlm_wasm.errors import ProviderError, QueryError
from rlm_wasm.ids import RequestId, RunId
from rlm_wasm.limits import BoundaryLimits, BudgetLimits, ModelPrice, QueryLimits, RunLimits
from rlm_wasm.outcomes import StopReason
from rlm_wasm.scheduler.ledger import Dimension
from rlm_wasm.scheduler.messages import CacheUse, FinishReason, Message, Usage

if TYPE_CHECKING:
    from rlm_wasm.scheduler.routing import Routing


class ToolTerms(NamedTuple):
    """What a run is held to in calls of one tool: the price of each, how many, how long one may take."""

    cost_microdollars: int
    calls_max: int | None
    timeout_ms: int


Origin = Literal["root", "guest", "last"]
CellVerdict = Literal["passed", "refused", "stopped", "failed", "timed_out"]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins: one question, one ledger.

    A model without an entry in `prices` is refused. `child_models` drive child runs at depth 1, 2 and
    so on, the last of them all deeper ones. `texts` puts prompts and answers into events. `weight` is
    that of the tenant where permits are shared. `windows` has the tokens that a model holds, where they are
    known.
    """

    run_id: RunId
    budget: BudgetLimits
    run: RunLimits
    query: QueryLimits
    boundary: BoundaryLimits
    prices: Mapping[str, ModelPrice]
    cell_requests_max: int
    cell_fuel_max: int
    seed: int
    child_models: tuple[str, ...] = ()
    texts: bool = False
    tenant: str = ""
    weight: int = 1
    # Which models answer in the place of others. None: each for itself.
    routing: Routing | None = None
    windows: Mapping[str, int] = field(default_factory=dict)
    # The tools that its guests may call; any other is refused.
    tools: Mapping[str, ToolTerms] = field(default_factory=dict)


class IterationStarted(NamedTuple):
    """A conversation's model is about to get its next turn.

    Without a turn left, an EndRun comes back for the root's, a StopChild for a child's.
    """

    run_id: RunId
    parent: RequestId | None = None


class CellStarted(NamedTuple):
    """A conversation is about to run its next cell, whose requests are counted anew.

    A GiveFuel comes back at once, with what the cell may use at first. With 0 the cell must not run,
    and an EndRun or StopChild comes with it.
    """

    run_id: RunId
    cell: int
    source_bytes: int
    parent: RequestId | None = None


class CellJudged(NamedTuple):
    """The hook of a run's caller has seen the next cell of a conversation, before it runs.

    One that was not "passed" must not run. "stopped", "failed" and "timed_out" end the run, whichever
    conversation it is: an EndRun comes back.
    """

    run_id: RunId
    cell: int
    source_bytes: int
    verdict: CellVerdict
    reason: str = ""
    error: str = ""
    parent: RequestId | None = None


class FuelWanted(NamedTuple):
    """A conversation's cell has nearly used what it was given. A GiveFuel comes back at once."""

    run_id: RunId
    parent: RequestId | None = None


class QueryReceived(NamedTuple):
    """Somebody wants model output. `request_id` is chosen by the host, never twice in a run.

    `depth` and `parent` are those of the conversation that asks; `group` is shared by the items of
    one batch. The completions that drive a conversation have origin "root". `answer_bytes_max` is the part
    of the response that is kept for its answer.

    Origin "last" is the root's question for the best answer there is, asked once, when a limit has ended the
    run, or is about to: `ending` says which. It may use what is kept for it. `observed_bytes` of it were not
    announced by ObservationMade.

    `by_size`: the code named no model, so that the policy may choose one by the prompt's size.
    """

    run_id: RunId
    request_id: RequestId
    depth: int
    origin: Origin
    model: str
    prompt_messages: tuple[Message, ...]
    output_tokens_max: int | None = None
    group: int | None = None
    parent: RequestId | None = None
    answer_bytes_max: int | None = None
    ending: StopReason | None = None
    observed_bytes: int = 0
    by_size: bool = False


class ChildRequested(NamedTuple):
    """A guest wants a child run to answer. Granted or denied at once, never queued.

    `depth` and `parent` are those of the conversation that asks; the child is one deeper. Without a
    model, the one for its depth drives it. `caps` bounds what it may use of the run's budget,
    `answer_bytes_max` its answer.
    """

    run_id: RunId
    request_id: RequestId
    depth: int
    model: str | None
    question: str
    group: int | None = None
    parent: RequestId | None = None
    caps: Mapping[Dimension, int] = {}
    answer_bytes_max: int | None = None


class ToolCalled(NamedTuple):
    """A guest calls a tool. `arguments` is JSON text that nobody has read yet.

    `depth` and `parent` are those of the conversation that asks; `answer_bytes_max` bounds the result.
    """

    run_id: RunId
    request_id: RequestId
    depth: int
    tool: str
    arguments: str
    group: int | None = None
    parent: RequestId | None = None
    answer_bytes_max: int | None = None


class ToolFinished(NamedTuple):
    """A tool came back: `text` is the JSON of its result, or `error` says why there is none.

    `called`: whether it was called at all; arguments that it does not take cost nothing.
    """

    run_id: RunId
    request_id: RequestId
    text: str = ""
    error: QueryError | None = None
    called: bool = True


class Surplus(NamedTuple):
    """So many requests behind those of a batch, numbered on from `first`, for which nothing is left.

    They are counted and refused together, whatever they ask: one by one, a guest could have its host
    refuse millions for next to nothing.
    """

    first: RequestId
    requests: int
    depth: int
    parent: RequestId | None = None


class BatchReceived(NamedTuple):
    """Requests of one conversation that came together, all of one kind.

    `surplus` are those beyond what `Scheduler.room` had for them; `items` may be empty then.
    """

    run_id: RunId
    items: tuple[QueryReceived | ChildRequested | ToolCalled, ...]
    surplus: Surplus | None = None


class ChildFinished(NamedTuple):
    """A child's conversation is over and its session gone: `error` says why there is no `answer`.

    Due once for every StartChild, also after StopChild; then it may be late, and is only recorded.
    """

    run_id: RunId
    request_id: RequestId
    answer: str | None = None
    error: QueryError | None = None


class RequestAbandoned(NamedTuple):
    """Whoever asked waits no longer: its cell was cancelled. Ends the request and all below it."""

    run_id: RunId
    request_id: RequestId


class ProviderAnswered(NamedTuple):
    """An attempt brought text. It may be late: after the deadline, or after a cancellation.

    `cache` is what came of asking a cache for it; a hit costs nothing.
    """

    run_id: RunId
    request_id: RequestId
    attempt: int
    text: str
    usage: Usage | None
    finish: FinishReason | None = None
    cache: CacheUse | None = None


class ProviderFailed(NamedTuple):
    """An attempt failed. `sent` is whether the provider may bill for it (True when in doubt).

    `throttled` is whether it asked for fewer requests, so that it gets fewer permits; `usage` is what it
    stated of work that came to nothing.
    """

    run_id: RunId
    request_id: RequestId
    attempt: int
    error: ProviderError
    retryable: bool
    sent: bool
    retry_after_ms: int | None = None
    throttled: bool = False
    usage: Usage | None = None


class TimerFired(NamedTuple):
    """A timer set by SetTimer came due. One that was cleared meanwhile is ignored."""

    run_id: RunId
    timer_id: str


class FuelUsed(NamedTuple):
    """A cell is over. `fuel` is what it used; None: nobody knows, so it is charged all that it was given."""

    run_id: RunId
    fuel: int | None
    parent: RequestId | None = None


class ObservationMade(NamedTuple):
    """An observation of this many bytes is about to go back to a conversation's model.

    If the budget does not cover it, an EndRun or StopChild comes back, and it must not go.
    """

    run_id: RunId
    bytes: int
    parent: RequestId | None = None


class Noted(NamedTuple):
    """Something the scheduler does not decide about, but that has its place among the run's events."""

    run_id: RunId
    kind: str
    data: dict[str, object]
    depth: int = 0
    parent: RequestId | None = None


class RunCancelled(NamedTuple):
    """Somebody outside wants the run stopped. Its requests end now; RunEnded is still due."""

    run_id: RunId
    stop: StopReason


class RunEnded(NamedTuple):
    """The run's guests are gone and nothing more will be asked. Its state is removed."""

    run_id: RunId
    stop: StopReason = StopReason.finished()


InputInRun: TypeAlias = (
    QueryReceived
    | ProviderAnswered
    | BatchReceived
    | ProviderFailed
    | ChildRequested
    | ChildFinished
    | ToolCalled
    | ToolFinished
    | RequestAbandoned
    | TimerFired
    | IterationStarted
    | CellJudged
    | CellStarted
    | FuelWanted
    | FuelUsed
    | ObservationMade
    | Noted
    | RunCancelled
    | RunEnded
)
Input: TypeAlias = RunStarted | InputInRun
