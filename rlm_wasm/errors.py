"""Every error a user of rlm-wasm can meet, and which of the three zones it speaks about.

``PolicyError`` is the operator's file; ``GuestError`` is one cell or session that ended while the host stays
healthy; ``RunStopped`` is a run that ended without a declared answer, for who wants that raised;
``QueryError`` is one request that was refused or failed, which guest code may catch; ``ArtifactError`` is a
file on disk that may not be loaded; ``HostExhausted`` is this machine, out of something; ``InternalError`` is
our bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Self

from rlm_wasm.outcomes import Outcome, StopReason, budget_key


class RlmWasmError(Exception):
    """Base of every error raised by this package. ``hint`` says what to do, when that is known."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message: Final = message
        self.hint: Final = hint


class UsageError(RlmWasmError):
    """The caller asked for something that cannot be: an unreadable file, an unknown model name."""


class ResumeCancelled(RlmWasmError):
    """A run that is taken up was cancelled while its log was repeated: nothing new of it has happened."""


class InputError(UsageError):
    """A file or folder cannot be read as an input. ``file`` is its name as it was given.

    Of a limit, ``key`` is the policy's key, where there is one, and ``limit`` its number.
    """

    def __init__(self, file: str, message: str, *, key: str | None = None, limit: int | None = None) -> None:
        super().__init__(message)
        self.file: Final = file
        self.key: Final = key
        self.limit: Final = limit


class InputTooLarge(InputError):
    """An input is more than the policy allows: bytes, files, or bytes out of each packed byte."""


class InputDamaged(InputError):
    """A packed file or a document is damaged, cut off, or something else than its name says."""


class InputNotConverted(InputError):
    """A document that no text could be made of: encrypted, a scan, or no image `data` to read it with.

    `no_image`: it is the image that is missing.
    """

    def __init__(self, file: str, message: str, *, no_image: bool = False) -> None:
        super().__init__(file, message)
        self.no_image: Final = no_image


class InputNotText(InputError):
    """A file is binary, or text in another encoding than was tried."""


class NoJsonForm(UsageError):
    """A value cannot cross the wall: it, or a part of it, has no JSON form. The message says which part."""


class ValueTooLarge(UsageError):
    """A value of the guest takes more bytes than `cell.result_bytes_max`, or than a result shows.

    `size`: how many, None of a value that the guest did not measure.
    """

    def __init__(self, size: int | None, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(
            message or f"the value takes {size} bytes, more than cell.result_bytes_max",
            hint=hint or "raise `cell.result_bytes_max` in the policy, or take it in parts",
        )
        self.size: Final = size


class PolicyError(RlmWasmError):
    """The operator's policy is missing, malformed, or asks for what this machine cannot give."""


class LockdownError(PolicyError):
    """The policy wants a locked-down worker, and this machine cannot give one of its layers."""


class ArtifactError(RlmWasmError):
    """A guest, image or cache file failed its hash, MAC, version or format check; nothing was loaded."""


class CacheUnusable(ArtifactError):
    """The cache of answers is locked, damaged or not ours. A run goes on without it; the result says so."""


class GuestBuildError(ArtifactError):
    """The guest could not be built: a source, a tool or a compile step failed."""


class HostExhausted(RlmWasmError):
    """This machine refused what a session needs: descriptors, memory, mappings, disk."""


class InternalError(RlmWasmError):
    """A broken invariant of ours. Please report it."""


class RuntimeClosed(RlmWasmError):
    """The runtime was torn down around a run, which has no result for that reason."""


class GuestError(RlmWasmError):
    """A cell or session ended early; the host is healthy. ``outcome`` is the word used in every report.

    Of a limit, ``key`` is the policy's key and ``limit`` its number, where they are known. One of another
    class of a caller's own, raised by who answers a guest, cancels the cell.
    """

    outcome: ClassVar[Outcome] = Outcome.CANCELLED
    # The policy's keys whose limit this can be: the first, unless another is named.
    keys: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        traceback: str = "",
        key: str | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        # Guest-made text, already bounded: where the guest was, if it got to say so.
        self.traceback: Final = traceback
        self.key: Final = key or (self.keys[0] if self.keys else None)
        self.limit: Final = limit

    def restated(self, message: str, *, traceback: str = "") -> Self:
        """Return the same, told in other words."""
        return type(self)(message, traceback=traceback, key=self.key, limit=self.limit)


class GuestException(GuestError):
    """The guest's own code raised. ``type_name`` and ``traceback`` are guest-made text, already bounded."""

    outcome = Outcome.GUEST_EXCEPTION

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name, traceback=traceback)
        self.type_name: Final = type_name
        self.guest_message: Final = message


class FuelExhausted(GuestError):
    """The cell or run used all of its fuel."""

    outcome = Outcome.FUEL_EXHAUSTED
    keys = ("cell.fuel_max",)


class MemoryExceeded(GuestError):
    """The guest asked for more memory than the policy gives."""

    outcome = Outcome.MEMORY_EXCEEDED
    keys = ("sandbox.memory_bytes_max",)


class DeadlineExceeded(GuestError):
    """The cell ran past its execution deadline; time spent waiting for the host is not counted."""

    outcome = Outcome.DEADLINE_EXCEEDED
    keys = ("cell.wall_ms_max", "cell.sleep_ms_max", "boundary.host_wait_ms_max")


class OutputExceeded(GuestError):
    """The guest wrote more output than the policy gives."""

    outcome = Outcome.OUTPUT_EXCEEDED
    keys = ("cell.stdout_bytes_max", "cell.stderr_bytes_max", "cell.result_bytes_max")


class RequestsExceeded(GuestError):
    """The cell went on asking long after its requests were used up."""

    outcome = Outcome.REQUESTS_EXCEEDED
    keys = ("cell.requests_max",)


class SourceExceeded(GuestError):
    """The source is longer than a cell may be. No line of it ran."""

    outcome = Outcome.SOURCE_EXCEEDED
    keys = ("cell.source_bytes_max",)


class CellRefused(GuestError):
    """The caller's hook refused the cell of a run. No line of it ran."""

    outcome = Outcome.REFUSED


class BoundaryViolation(GuestError):
    """A frame, pointer, length or state at the boundary was not what it may be."""

    outcome = Outcome.BOUNDARY_VIOLATION


class GuestTrap(GuestError):
    """WebAssembly stopped the guest: stack overflow, unreachable code, an exit from inside."""

    outcome = Outcome.GUEST_TRAP


class CellCancelled(GuestError):
    """The host cancelled the cell."""

    outcome = Outcome.CANCELLED


class WorkerLost(GuestError):
    """The process the session was in is gone: it died, hung, or broke the protocol. The host is healthy."""

    outcome = Outcome.WORKER_LOST


class Overloaded(RlmWasmError):
    """No session can be made now: the policy's sessions, workers or memory are used up. Try again later."""


class NoCandidate(RlmWasmError):
    """No candidate of a `best_of` has a score. `errors` are what some failed by, by their numbers."""

    def __init__(self, errors: Mapping[int, Exception], count: int) -> None:
        first = next((f", the first by {type(each).__name__}: {each}" for each in errors.values()), "")
        super().__init__(f"none of {count} candidates has a score; {len(errors)} failed{first}")
        self.errors: Final = dict(errors)


class RunStopped(RlmWasmError):
    """A run ended without an answer that the model declared, or its events are not all written.

    Raised by `RunResult.raise_for_outcome` alone. ``stop`` says why the run ended; ``partial_answer`` is the
    best there is.
    """

    def __init__(self, reason: str, stop: StopReason, partial_answer: str | None) -> None:
        hint = None if stop.key is None else f"raise `{stop.key}` in the policy"
        super().__init__(f"the run ended early: {reason}", hint=hint)
        self.stop: Final = stop
        self.partial_answer: Final = partial_answer


class RunLimitReached(RunStopped):
    """A limit of the policy ended the run: ``key`` is the policy's key, ``limit`` the number reached."""

    @property
    def key(self) -> str | None:
        """The policy's key; None: a cap that a parent gave its child."""
        return self.stop.key

    @property
    def limit(self) -> int | None:
        """The number that was reached."""
        return self.stop.limit


class QueryError(RlmWasmError):
    """One request was refused or failed. The guest gets the same type and may catch it."""


class BudgetExceeded(QueryError):
    """A reservation did not fit. Integers only; ``dimension`` is one of ``scheduler.ledger.Dimension``.

    ``kept`` of the limit is the run's last question's (``run.reserve_percent``), and not available.
    """

    def __init__(self, dimension: str, *, requested: int, available: int, limit: int, kept: int = 0) -> None:
        key = budget_key(dimension)
        last = f", {kept} kept for the last answer: run.reserve_percent" if kept else ""
        super().__init__(
            f"{dimension} budget exceeded: requested {requested}, {available} of {limit} available{last}",
            hint=f"raise `{key}` in the policy",
        )
        self.dimension: Final = dimension
        self.key: Final = key
        self.requested: Final = requested
        self.available: Final = available
        self.limit: Final = limit
        self.kept: Final = kept


class LimitExceeded(QueryError):
    """A well-formed request is larger than the policy allows; nothing of it was done.

    ``key`` is the policy's, ``what`` says of which part the size is.
    """

    def __init__(self, what: str, *, key: str, size: int, limit: int) -> None:
        super().__init__(f"{what}; {key} allows {limit}", hint=f"raise `{key}` in the policy")
        self.key: Final = key
        self.size: Final = size
        self.limit: Final = limit


class DepthExceeded(QueryError):
    """The request would start a run deeper than the policy allows."""


class QueryTimeout(QueryError):
    """The request met its deadline before an answer came."""


class QueryCancelled(QueryError):
    """The run ended, or the operator cancelled, before an answer came."""


class ChildFailed(QueryError):
    """A child run ended without an answer. `partial` is the best it had, if anything."""

    def __init__(self, message: str, *, partial: str | None = None) -> None:
        super().__init__(message)
        self.partial: Final = partial


class ToolError(QueryError):
    """A tool's own refusal or failure: whoever wrote the tool raises it, and its message goes to the guest.

    What else a tool raises is told there in a fixed sentence, and none of it crosses the wall.
    """


class ToolArgumentError(ToolError):
    """The arguments are not what the tool takes; it was not called."""


class ToolTimeout(ToolError):
    """The tool did not come back in time; nobody waits for it any more."""


class ProviderError(QueryError):
    """The model provider refused, failed or answered something that is not an answer."""


class NoText(ProviderError):
    """The model answered, and without a word of text: thoughts, a tool call, or nothing at all.

    A conversation goes on and says so to its model. A guest sees a ProviderError.
    """


class LostInFlight(ProviderError):
    """An attempt was under way when its run's process ended; the run was taken up since.

    It counts as spent and is made again, whatever the attempts that the policy allows. A guest sees a
    ProviderError.
    """


class WindowExceeded(ProviderError):
    """The messages, or the answer that was allowed, are too long for the model, as its endpoint says.

    ``window_tokens`` is what it holds, ``prompt_tokens`` what the messages took, ``answer_tokens_max`` the
    most that an answer may be; None: it did not say. A guest sees a ProviderError.
    """

    def __init__(
        self,
        message: str,
        *,
        window_tokens: int | None = None,
        prompt_tokens: int | None = None,
        answer_tokens_max: int | None = None,
    ) -> None:
        super().__init__(message)
        self.window_tokens: Final = window_tokens
        self.prompt_tokens: Final = prompt_tokens
        self.answer_tokens_max: Final = answer_tokens_max
