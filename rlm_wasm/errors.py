"""Every error a user of rlm-wasm can meet, and which of the three zones it speaks about.

``PolicyError`` is the operator's file; ``GuestError`` is one cell or session that ended while the
host stays healthy; ``QueryError`` is one request that was refused or failed, which guest code may
catch; ``ArtifactError`` is a file on disk that may not be loaded; ``HostExhausted`` is this machine, out of
something; ``InternalError`` is our bug.
"""

from __future__ import annotations

from typing import ClassVar, Final


class RlmWasmError(Exception):
    """Base of every error raised by this package. ``hint`` says what to do, when that is known."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message: Final = message
        self.hint: Final = hint


class UsageError(RlmWasmError):
    """The caller asked for something that cannot be: an unreadable file, an unknown model name."""


class PolicyError(RlmWasmError):
    """The operator's policy is missing, malformed, or asks for what this machine cannot give."""


class LockdownError(PolicyError):
    """The policy wants a locked-down worker, and this machine cannot give one of its layers."""


class ArtifactError(RlmWasmError):
    """A guest, image or cache file failed its hash, MAC, version or format check; nothing was loaded."""


class GuestBuildError(ArtifactError):
    """The guest could not be built: a source, a tool or a compile step failed."""


class HostExhausted(RlmWasmError):
    """This machine refused what a session needs: descriptors, memory, mappings, disk."""


class InternalError(RlmWasmError):
    """A broken invariant of ours. Please report it."""


class GuestError(RlmWasmError):
    """A cell or session ended early; the host is healthy. ``outcome`` is the word used in every report."""

    outcome: ClassVar[str] = "guest_error"

    def __init__(self, message: str, *, hint: str | None = None, traceback: str = "") -> None:
        super().__init__(message, hint=hint)
        # Guest-made text, already bounded: where the guest was, if it got to say so.
        self.traceback: Final = traceback


class GuestException(GuestError):
    """The guest's own code raised. ``type_name`` and ``traceback`` are guest-made text, already bounded."""

    outcome = "guest_exception"

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name, traceback=traceback)
        self.type_name: Final = type_name
        self.guest_message: Final = message


class FuelExhausted(GuestError):
    """The cell or run used all of its fuel."""

    outcome = "fuel_exhausted"


class MemoryExceeded(GuestError):
    """The guest asked for more memory than the policy gives."""

    outcome = "memory_exceeded"


class DeadlineExceeded(GuestError):
    """The cell ran past its execution deadline; time spent waiting for the host is not counted."""

    outcome = "deadline_exceeded"


class OutputExceeded(GuestError):
    """The guest wrote more output than the policy gives."""

    outcome = "output_exceeded"


class RequestsExceeded(GuestError):
    """The cell went on asking long after its requests were used up."""

    outcome = "requests_exceeded"


class BoundaryViolation(GuestError):
    """A frame, pointer, length or state at the boundary was not what it may be."""

    outcome = "boundary_violation"


class GuestTrap(GuestError):
    """WebAssembly stopped the guest: stack overflow, unreachable code, an exit from inside."""

    outcome = "guest_trap"


class CellCancelled(GuestError):
    """The host cancelled the cell."""

    outcome = "cancelled"


class WorkerLost(GuestError):
    """The process the session was in is gone: it died, hung, or broke the protocol. The host is healthy."""

    outcome = "worker_lost"


class Overloaded(RlmWasmError):
    """No session can be made now: the policy's sessions, workers or memory are used up. Try again later."""


class QueryError(RlmWasmError):
    """One request was refused or failed. The guest gets the same type and may catch it."""


class BudgetExceeded(QueryError):
    """A reservation did not fit. Integers only; ``dimension`` is one of ``scheduler.ledger.Dimension``."""

    def __init__(self, dimension: str, *, requested: int, available: int, limit: int) -> None:
        super().__init__(
            f"{dimension} budget exceeded: requested {requested}, {available} of {limit} available",
            hint=f"raise `{dimension if '.' in dimension else 'budget.' + dimension}_max` in the policy",
        )
        self.dimension: Final = dimension
        self.requested: Final = requested
        self.available: Final = available
        self.limit: Final = limit


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


class ProviderError(QueryError):
    """The model provider refused, failed or answered something that is not an answer."""
