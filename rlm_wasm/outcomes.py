"""The types of an end: of a cell (`Outcome`), its session (`SessionState`), a run (`StopReason`).

The words and texts of events, JSON documents and the command line are made here, and read back here only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """How a cell ended. What belongs to it, a limit and its key, is in the error of its result."""

    COMPLETED = "completed"
    GUEST_EXCEPTION = "guest_exception"  # its own code raised
    FUEL_EXHAUSTED = "fuel_exhausted"
    MEMORY_EXCEEDED = "memory_exceeded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    OUTPUT_EXCEEDED = "output_exceeded"
    REQUESTS_EXCEEDED = "requests_exceeded"
    SOURCE_EXCEEDED = "source_exceeded"  # longer than a cell may be: no line of it ran
    BOUNDARY_VIOLATION = "boundary_violation"
    GUEST_TRAP = "guest_trap"
    REFUSED = "refused"  # by the caller's hook: no line of it ran
    CANCELLED = "cancelled"  # by the host
    WORKER_LOST = "worker_lost"  # the process that held its session is gone

    @property
    def is_limit(self) -> bool:
        """Whether a limit of the policy ended the cell."""
        return self in _LIMITS


_LIMITS: Final = frozenset(
    (
        Outcome.FUEL_EXHAUSTED,
        Outcome.MEMORY_EXCEEDED,
        Outcome.DEADLINE_EXCEEDED,
        Outcome.OUTPUT_EXCEEDED,
        Outcome.REQUESTS_EXCEEDED,
        Outcome.SOURCE_EXCEEDED,
    )
)


class SessionState(StrEnum):
    """What a cell left of its session."""

    ALIVE = "alive"  # it goes on with what the cell left
    RESTORED = "restored"  # the guest had to be stopped; the session is back at a state before the cell
    LOST = "lost"  # the guest had to be stopped, and nothing older was kept


class StopKind(StrEnum):
    """Why a run, or a child of it, ended."""

    FINISHED = "finished"  # its code declared the answer
    FINAL = "final"  # the model declared it as text
    ITERATIONS = "iterations_exhausted"
    REPEATS = "no_progress"  # it ran the same code and saw the same, again and again
    BUDGET = "budget"  # what was to come next did not fit
    OVERDRAFT = "overdraft"  # what happened cost more than there was
    DEADLINE = "deadline"
    MODEL_FAILED = "model_failed"
    HOOK_STOPPED = "hook_stopped"  # the caller's hook wants no more of it, for its reason
    HOOK_FAILED = "hook_failed"  # the caller's hook raised, took too long, or said nothing of use
    CANCELLED = "cancelled"  # by whoever started it, in their words
    CLOSED = "runtime_closed"  # the runtime was closed around it
    EVENTS = "events"  # an event of it could not be written
    ABANDONED = "abandoned"  # of a child: nobody waits for it any more
    OVER = "over"  # of a child: it has come to its own end
    RECORDING = "recording_over"  # of a replay
    FAILED = "failed"  # by an exception, which its caller gets


_DECLARED: Final = frozenset((StopKind.FINISHED, StopKind.FINAL))
_BY_LIMIT: Final = frozenset(
    (StopKind.ITERATIONS, StopKind.REPEATS, StopKind.BUDGET, StopKind.OVERDRAFT, StopKind.DEADLINE)
)
# The causes that the event `run_stopping` knows by name; all else is somebody's word from outside.
_CAUSES: Final = _BY_LIMIT | {StopKind.HOOK_STOPPED, StopKind.HOOK_FAILED}
# After these there is still time, and perhaps a reserve, for one more question.
_BEFORE_THE_LAST: Final = frozenset(
    (StopKind.BUDGET, StopKind.OVERDRAFT, StopKind.ITERATIONS, StopKind.REPEATS)
)


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why a run ended: the kind, the words for it (`str`), and the limit and the policy's key if it was one.

    Made by the class methods, so that there is one place for each text. `limit` counts what `key` counts.
    `error` is the type of what the model failed with.
    """

    kind: StopKind
    text: str
    key: str | None = None
    limit: int | None = None
    error: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def declared(self) -> bool:
        """Whether the model declared its answer final. Everything else is an early end."""
        return self.kind in _DECLARED

    @property
    def is_limit(self) -> bool:
        """Whether a limit of the policy ended the run."""
        return self.kind in _BY_LIMIT

    @property
    def leaves_a_question(self) -> bool:
        """Whether the root's model may still be asked once, for the best answer that it has."""
        return self.kind in _BEFORE_THE_LAST

    @property
    def cause(self) -> str:
        """The word of the event `run_stopping`."""
        return (self.kind if self.kind in _CAUSES else StopKind.CANCELLED).value

    def logged(self, *, texts: bool) -> str:
        """Return the words for a log: without `texts`, not what a provider or hook said: it may quote."""
        if not texts and self.kind is StopKind.HOOK_STOPPED:
            return self.kind.value
        if texts or self.kind is not StopKind.MODEL_FAILED:
            return self.text
        return f"{self.kind}: {self.error}"

    # -- by the model ---------------------------------------------------------------------------------

    @classmethod
    def finished(cls) -> StopReason:
        """The code of a cell declared the answer."""
        return cls(StopKind.FINISHED, "finished")

    @classmethod
    def final(cls) -> StopReason:
        """The model declared its answer as text."""
        return cls(StopKind.FINAL, "final")

    @classmethod
    def model_failed(cls, error: str, message: str) -> StopReason:
        """The model could not be asked: an error of this type, which says this."""
        return cls(StopKind.MODEL_FAILED, f"model_failed: {error}: {message}", error=error)

    # -- by a limit -----------------------------------------------------------------------------------

    @classmethod
    def iterations(cls, limit: int, key: str) -> StopReason:
        """The model had all of its turns."""
        return cls(StopKind.ITERATIONS, "iterations_exhausted", key, limit)

    @classmethod
    def no_progress(cls, limit: int) -> StopReason:
        """The model did the same and was shown the same, more often in a row than it may."""
        return cls(StopKind.REPEATS, "no_progress", "run.repeats_max", limit)

    @classmethod
    def budget(cls, dimension: str, limit: int) -> StopReason:
        """What was to come next did not fit into what is left of a dimension."""
        return cls(StopKind.BUDGET, f"budget: {dimension}", budget_key(dimension), limit)

    @classmethod
    def overdraft(cls, dimensions: tuple[str, ...], limit: int) -> StopReason:
        """What happened cost more than its limit. `limit` is that of the first dimension."""
        text = f"overdraft: {', '.join(dimensions)}"
        return cls(StopKind.OVERDRAFT, text, budget_key(dimensions[0]), limit)

    @classmethod
    def run_deadline(cls, limit_ms: int) -> StopReason:
        """The run took all of its time."""
        return cls(StopKind.DEADLINE, f"deadline: {limit_ms} ms", "run.wall_ms_max", limit_ms)

    @classmethod
    def child_deadline(cls, limit_ms: int) -> StopReason:
        """A child took all of its time, which may be less than the policy's."""
        return cls(StopKind.DEADLINE, "its deadline", limit=limit_ms)

    # -- from outside ---------------------------------------------------------------------------------

    @classmethod
    def cancelled(cls, words: str = "cancelled") -> StopReason:
        """Whoever started the run wants it to end, and says why."""
        return cls(StopKind.CANCELLED, words)

    @classmethod
    def hook_stopped(cls, words: str) -> StopReason:
        """The hook that sees each cell wants the run to end, and says why."""
        return cls(StopKind.HOOK_STOPPED, f"{StopKind.HOOK_STOPPED}: {words}")

    @classmethod
    def hook_failed(cls, what: str) -> StopReason:
        """The hook that sees each cell said nothing that lets it run or not: what it raised, by its type."""
        return cls(StopKind.HOOK_FAILED, f"{StopKind.HOOK_FAILED}: {what}")

    @classmethod
    def hook_timed_out(cls, limit_ms: int) -> StopReason:
        """The hook that sees each cell took longer than it may."""
        text = f"{StopKind.HOOK_FAILED}: no verdict within {limit_ms} ms"
        return cls(StopKind.HOOK_FAILED, text, "run.hook_ms_max", limit_ms)

    @classmethod
    def runtime_closed(cls) -> StopReason:
        """The runtime is being closed."""
        return cls(StopKind.CLOSED, "the runtime was closed")

    @classmethod
    def events_lost(cls, what: str) -> StopReason:
        """An event could not be written."""
        return cls(StopKind.EVENTS, f"events: {what}")

    @classmethod
    def abandoned(cls) -> StopReason:
        """Nobody waits for a child's answer any more."""
        return cls(StopKind.ABANDONED, "nobody waits for it any more")

    @classmethod
    def child_over(cls) -> StopReason:
        """A child has come to its own end, and asks for nothing more."""
        return cls(StopKind.OVER, "the child is over")

    @classmethod
    def recording_over(cls) -> StopReason:
        """A replay has nothing more to go by."""
        return cls(StopKind.RECORDING, "the recording is over")

    @classmethod
    def failed(cls) -> StopReason:
        """An exception ended the run."""
        return cls(StopKind.FAILED, "failed")

    # -- back from a log ------------------------------------------------------------------------------

    @classmethod
    def parse(cls, text: str) -> StopReason:
        """Return what an event's text says. Keys and limits are not in it.

        Words of no other kind are somebody's. It is the kind that the text looks like: whoever cancels a run
        may say anything.
        """
        if (kind := _WHOLE.get(text)) is not None:
            return cls(kind, text)
        word, colon, rest = text.partition(": ")
        if not colon or word not in _WITH_DETAIL:
            return cls(StopKind.CANCELLED, text)
        kind = StopKind(word)
        return cls(kind, text, error=rest.partition(": ")[0] if kind is StopKind.MODEL_FAILED else None)


_WHOLE: Final = {
    str(reason): reason.kind
    for reason in (
        StopReason.finished(),
        StopReason.final(),
        StopReason.iterations(0, ""),
        StopReason.no_progress(0),
        StopReason.child_deadline(0),
        StopReason.runtime_closed(),
        StopReason.abandoned(),
        StopReason.child_over(),
        StopReason.recording_over(),
        StopReason.failed(),
    )
} | {StopKind.HOOK_STOPPED.value: StopKind.HOOK_STOPPED}
_WITH_DETAIL: Final = frozenset(
    kind.value
    for kind in (
        StopKind.BUDGET,
        StopKind.OVERDRAFT,
        StopKind.DEADLINE,
        StopKind.MODEL_FAILED,
        StopKind.HOOK_STOPPED,
        StopKind.HOOK_FAILED,
        StopKind.EVENTS,
    )
)


def budget_key(dimension: str) -> str:
    """Return the policy's key for a dimension of a budget."""
    return f"{dimension if '.' in dimension else 'budget.' + dimension}_max"
