"""The results of a cell and of a run, as a caller gets them: the same in every zone and on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import structs

from rlm_wasm.errors import CacheUnusable, GuestError, NoJsonForm, RunLimitReached, RunStopped, ValueTooLarge
from rlm_wasm.ids import RunId
from rlm_wasm.outcomes import Outcome, SessionState, StopKind, StopReason
from rlm_wasm.values import Value, decode_value

# Bounds that no honest result comes near: a worker, or a guest that has rewritten its REPL, may say anything.
NAME_CHARS_MAX: Final = 256
VARIABLES_MAX: Final = 4_096
DRAFT_CHARS_MAX: Final = 65_536

_Name = Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class CellResult(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one cell came to. `error` is None exactly when `outcome` is `Outcome.COMPLETED`.

    `result` is the repr of the last expression. `session_state` is what is left of the session: a cell that
    had to be stopped costs it what the cell did (`RESTORED`), or all (`LOST`). `executed_ns` does not count
    waits for the host. `draft` is what the code would answer so far, where it said something new about
    that: `answer["content"]`, or what it gave FINAL and was too long.
    """

    error: GuestError | None = None
    stdout: str = ""
    stderr: str = ""
    result: str | None = None
    variables: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=VARIABLES_MAX)] = ()
    fuel_used: _Count = 0
    memory_peak_bytes: _Count = 0
    executed_ns: _Count = 0
    session_state: SessionState = SessionState.ALIVE
    draft: Annotated[str, msgspec.Meta(max_length=DRAFT_CHARS_MAX)] | None = None
    # The last expression as the guest sent it, not decoded, and how many bytes it had to send.
    value_frame: bytes | None = None
    value_bytes: _Count = 0

    @property
    def value(self) -> Value:
        """The last expression itself: a str or bytes, or what JSON can say; a tuple comes as a list.

        None if there was none, or it was None. It is decoded anew each time.

        Raises:
            GuestError: the cell did not complete: what `raise_for_outcome` raises.
            NoJsonForm: the value, or a part of it, has no JSON form; or it was not asked for.
            ValueTooLarge: it takes more than `cell.result_bytes_max`, or than the 65,536 that come with any
                result, whatever that is; `SandboxSession.get` gives a larger one by its name.
            BoundaryViolation: the guest sent nonsense.
        """
        self.raise_for_outcome()
        if self.result is None and not self.value_bytes:
            return None
        return self.told_value()

    def told_value(self) -> Value:
        """Return the value that the cell sent, whatever it showed. Raises what `value` does."""
        if self.value_frame is not None:
            return decode_value(self.value_frame)
        if self.value_bytes:
            raise ValueTooLarge(self.value_bytes)
        raise NoJsonForm("the cell told no value")

    @property
    def outcome(self) -> Outcome:
        """How the cell ended."""
        return Outcome.COMPLETED if self.error is None else self.error.outcome

    def raise_for_outcome(self) -> Self:
        """Return the result if the cell completed.

        Raises:
            GuestError: it did not: the one in `error`, whose type and `outcome` say how it ended; of a limit,
                `key` and `limit` say which.
        """
        error = self.error
        if error is None:
            return self
        if error.key is not None and not hasattr(error, "__notes__"):
            number = "" if error.limit is None else f" = {error.limit}"
            error.add_note(f"{error.outcome}: {error.key}{number}")
        raise error

    def revised(
        self,
        *,
        error: GuestError | None = None,
        session_state: SessionState | None = None,
        fuel_used: int | None = None,
        executed_ns: int | None = None,
    ) -> Self:
        """Return the result with what is given instead of what it has."""
        given = {
            "error": error,
            "session_state": session_state,
            "fuel_used": fuel_used,
            "executed_ns": executed_ns,
        }
        return structs.replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True)
class CellRecord:
    """A cell of a run's root: its code, what the model was shown of it, how it ended, its fuel.

    `stdout` has its last expression as well, and `stderr` its error: each cut where an observation would be.
    `variables` are the names that it left.
    """

    turn: int
    code: str
    observation: str
    outcome: Outcome
    fuel_used: int
    stdout: str = ""
    stderr: str = ""
    variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """A turn of a run's root: its number from 1, the model's reply, and the cells that ran for it.

    `problems` are those of a typed answer that it declared and that does not fit.
    """

    number: int
    reply: str
    cells: tuple[CellRecord, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PriceInForce:
    """What a model's tokens are charged at, in micro-dollars for a million, and where that number is from."""

    input_microdollars_per_mtok: int
    output_microdollars_per_mtok: int
    source: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to.

    `answer` is None when there is none. `stop` says why the run ended, `reason` the same in words. `partial`
    is True for anything the model did not declare final. It is True as well for a run of which an event could
    not be written, whenever that was, so that no run passes for whole whose events are not: `unwritten` then
    says what failed, and `reason` ends with it. `spent` maps each dimension of the ledger to what was used,
    over all depths. `lockdown` is what stood around the worker processes of its sessions, of those that had
    less than others: the word that the event `session_ended` has; empty where there was none. `prices` has
    the price of every model that the run could ask, with its source: "policy", a list and its version,
    "--price", or why it is free. `answered_by` is how many answers each model gave, `cached` how
    many of these a cache had, at no cost, and `cache_fault` why that was of no use at the end, if it was not.
    `hook_error` is what the caller's own hook raised, where that ended the run.
    Where `output` says what the answer is to be, `value` is the answer as that and `checked` is True. Both
    are so for an answer alone that the model declared and that fits: of a partial one `value` is None.
    `problems` then says what was wrong with the answer that was declared last, if one was: each where, and
    what.
    `transcript` has the turns of the root's conversation, whole, whatever the policy lets the log say.
    """

    run_id: RunId
    answer: str | None
    stop: StopReason
    spent: dict[str, int]
    wall_ms: int
    lockdown: str = ""
    unwritten: StopReason | None = None
    prices: Mapping[str, PriceInForce] = field(default_factory=dict)
    answered_by: Mapping[str, int] = field(default_factory=dict)
    transcript: tuple[TurnRecord, ...] = ()
    cached: int = 0
    cache_fault: CacheUnusable | None = None
    hook_error: BaseException | None = None
    value: Any = None
    checked: bool = False
    problems: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether the answer is not one that the model declared, or the events are not whole."""
        return not self.stop.declared or self.unwritten is not None

    @property
    def events_alone(self) -> bool:
        """Whether nothing but an event that could not be written makes it partial."""
        return self.unwritten is not None and (self.stop.declared or self.stop.kind is StopKind.EVENTS)

    @property
    def reason(self) -> str:
        """Why the run ended, in words."""
        if self.unwritten is None or self.stop.kind is StopKind.EVENTS:
            return str(self.stop)
        return str(self.unwritten) if self.stop.declared else f"{self.stop}; {self.unwritten}"

    def raise_for_outcome(self) -> Self:
        """Return the result if the model declared its answer, and all events of the run are written.

        Raises:
            RunLimitReached: a limit of the policy ended the run; `key` and `limit` say which.
            RunStopped: it ended early for another reason, which is `stop`.
        """
        if not self.partial:
            return self
        stop = self.unwritten if self.stop.declared and self.unwritten is not None else self.stop
        kind = RunLimitReached if stop.is_limit else RunStopped
        raise kind(self.reason, stop, self.answer) from self.hook_error
