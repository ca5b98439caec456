"""The host's books of each worker: what it was sent, so what it may report; every report is checked.

Pure. The host tells it what it sent (`opening`, `beginning`, …); `check` takes a report and returns it
if it was due, and raises BoundaryViolation otherwise. Every report answers something the host sent, so
there are never more of them than the host allowed: a worker cannot flood, only stop.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from rlm_wasm.errors import BoundaryViolation, CellCancelled, GuestError, InternalError, UsageError
from rlm_wasm.host.endings import Operation, check_cell, check_error
from rlm_wasm.limits import BoundaryLimits, CellLimits, SessionLimits
from rlm_wasm.outcomes import SessionState
from rlm_wasm.protocol.cell import FLOOD_FACTOR
from rlm_wasm.protocol.input_reads import WINDOW_BYTES_MAX, InputAsked
from rlm_wasm.protocol.worker_messages import (
    TRACEBACK_CHARS_MAX,
    CellOutput,
    FromWorker,
    FuelLow,
    GuestRequest,
    InputRequest,
    OperationDone,
    Pong,
    Ready,
    SessionClosed,
    kind_of,
)
from rlm_wasm.results import DRAFT_CHARS_MAX, CellResult

_PAGE_BYTES: Final = 65_536
_RUN_BYTES: Final = 4_096
# No session's clock gets so far, 36 years; from there it still counts in 64 bits for whoever starts from it.
VIRTUAL_NS_MAX: Final = 1 << 60
# What a report is beside its texts: numbers, names, the list of variables.
_REPORT_BYTES_BESIDE: Final = 1 << 20
# Text that came as bytes of the guest grows when what is no UTF-8 in it is replaced.
_GROWTH: Final = 3


class SessionPhase(enum.Enum):
    """Where a session of a worker is, as the host knows it."""

    IDLE = "idle"
    BUSY = "busy"  # opening, loading, rebasing, taking a snapshot: the guest may ask nothing
    RUNNING = "running"
    WAITING = "waiting"  # the guest asked; the host has to say something first
    DRY = "dry"  # the cell has nearly used its fuel; the host has to say how much more there is
    STOPPING = "stopping"  # told to end; what it asked meanwhile is void
    CLOSING = "closing"


class ReportStep(enum.Enum):
    """What a worker reports about a session."""

    ASKED = "asked"
    DRIED = "dried"
    WROTE = "wrote"
    DONE = "done"
    CLOSED = "closed"


# A report that has no place here ends the worker. After `closed` the session is in no state at all.
TRANSITIONS: Final[dict[SessionPhase, dict[ReportStep, SessionPhase | None]]] = {
    SessionPhase.IDLE: {},
    SessionPhase.BUSY: {ReportStep.DONE: SessionPhase.IDLE},
    SessionPhase.RUNNING: {
        ReportStep.WROTE: SessionPhase.RUNNING,
        ReportStep.ASKED: SessionPhase.WAITING,
        ReportStep.DRIED: SessionPhase.DRY,
        ReportStep.DONE: SessionPhase.IDLE,
    },
    SessionPhase.WAITING: {},
    SessionPhase.DRY: {},
    SessionPhase.STOPPING: {
        ReportStep.WROTE: SessionPhase.STOPPING,
        ReportStep.ASKED: SessionPhase.STOPPING,
        ReportStep.DRIED: SessionPhase.STOPPING,
        ReportStep.DONE: SessionPhase.IDLE,
    },
    SessionPhase.CLOSING: {
        ReportStep.WROTE: SessionPhase.CLOSING,
        ReportStep.ASKED: SessionPhase.CLOSING,
        ReportStep.DRIED: SessionPhase.CLOSING,
        ReportStep.DONE: SessionPhase.CLOSING,
        ReportStep.CLOSED: None,
    },
}


@dataclass(slots=True)
class _Entry:
    """The host's record of one session."""

    session: SessionLimits
    boundary: BoundaryLimits
    state: SessionPhase = SessionPhase.BUSY
    operation: int = 0
    kind: Operation = Operation.OPEN
    cell: CellLimits | None = None
    # What the cell may use so far, and whether it may ask for more.
    fuel: int = 0
    refuels: bool = False
    # Whether it says what it writes while it runs, and how much of each stream it has said.
    live: bool = False
    written: dict[int, int] = field(default_factory=dict)
    # What the host told the operation to end by, and whether an earlier one may have cost the session.
    told: set[str] = field(default_factory=set)
    lost: bool = False
    opened: bool = False
    asked: int = 0
    # What the cell has paid for what it asked of its inputs.
    read_fuel: int = 0
    # One request and one end may be on their way when a session is stopped or closed.
    late: int = 0


class SessionLedger:
    """The books of one worker process."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._operations = 0
        self._ready = False
        self._ping: int | None = None
        # Closed before the ping that is outstanding: their ends come before its pong.
        self._closed_before: set[int] = set()

    @property
    def sessions(self) -> tuple[int, ...]:
        """The sessions that the worker holds, closing ones too."""
        return tuple(self._entries)

    @property
    def ready(self) -> bool:
        """Whether the worker has said that it serves."""
        return self._ready

    @property
    def ping_outstanding(self) -> bool:
        """Whether a ping has not been answered."""
        return self._ping is not None

    def kind(self, session: int) -> Operation:
        """Return what a session did last, or does; of one that was never made, that it was to be."""
        entry = self._entries.get(session)
        return Operation.OPEN if entry is None else entry.kind

    def state(self, session: int) -> SessionPhase | None:
        """Return where a session is; None: there is none of this number."""
        entry = self._entries.get(session)
        return None if entry is None else entry.state

    def owes(self, session: int, operation: int) -> bool:
        """Whether the end of this operation is still to come."""
        entry = self._entries.get(session)
        return entry is not None and entry.operation == operation and entry.state is not SessionPhase.IDLE

    def limits(self, session: int) -> SessionLimits:
        """Return the limits of a session that is there."""
        return self._entries[session].session

    # -- what the host sends -----------------------------------------------------------------------------

    def opening(self, session: int, limits: SessionLimits, boundary: BoundaryLimits) -> int:
        """Note that a session is made; return the operation's number."""
        if session in self._entries:
            raise InternalError(f"session {session} is there already")
        self._entries[session] = entry = _Entry(limits, boundary)
        return self._begin(entry)

    def beginning(
        self,
        session: int,
        kind: Operation,
        *,
        cell: CellLimits | None = None,
        refuels: bool = False,
        live: bool = False,
    ) -> int:
        """Note that an operation begins in an idle session; return its number."""
        entry = self._entries[session]
        if entry.state is not SessionPhase.IDLE:
            raise InternalError(f"an operation begins in a session that is {entry.state.value}")
        if (cell is None) == (kind is Operation.RUN):
            raise InternalError("a cell has limits, and nothing else has")
        entry.state = SessionPhase.BUSY if cell is None else SessionPhase.RUNNING
        entry.kind = kind
        entry.cell = cell
        entry.fuel = 0 if cell is None else cell.fuel_max
        entry.refuels = refuels
        entry.live = live
        entry.written = {}
        entry.read_fuel = 0
        return self._begin(entry)

    def _begin(self, entry: _Entry) -> int:
        self._operations += 1
        entry.operation = self._operations
        entry.asked = entry.late = 0
        entry.told.clear()
        return entry.operation

    def responding(self, session: int) -> bool:
        """Note that the host answers a request; return False if there is none to answer."""
        entry = self._entries.get(session)
        if entry is None or entry.state is not SessionPhase.WAITING:
            return False
        entry.state = SessionPhase.RUNNING
        return True

    def interrupting(self, session: int) -> bool:
        """Note that a cell is asked to end; return False if there is nobody to ask."""
        entry = self._entries.get(session)
        if entry is None or entry.state is SessionPhase.CLOSING:
            return False
        if entry.state in (SessionPhase.RUNNING, SessionPhase.WAITING, SessionPhase.DRY):
            entry.told.add(CellCancelled.__name__)
        return True

    def refuelling(self, session: int, fuel: int) -> bool:
        """Note that a cell gets so much more fuel, 0 for the last time; return False if it does not wait."""
        entry = self._entries.get(session)
        if entry is None or entry.state is not SessionPhase.DRY:
            return False
        entry.state = SessionPhase.RUNNING
        entry.fuel += fuel
        entry.refuels = fuel > 0
        return True

    def stopping(self, session: int, error: GuestError) -> bool:
        """Note that an operation is told to end; return False if there is none."""
        entry = self._entries.get(session)
        if entry is None or entry.state not in (
            SessionPhase.BUSY,
            SessionPhase.RUNNING,
            SessionPhase.WAITING,
            SessionPhase.DRY,
        ):
            return False
        entry.told.add(kind_of(error))
        entry.late = int(entry.state is not SessionPhase.RUNNING)
        entry.state = SessionPhase.STOPPING
        return True

    def closing(self, session: int) -> bool:
        """Note that a session is closed; return False if that is so already."""
        entry = self._entries.get(session)
        if entry is None or entry.state is SessionPhase.CLOSING:
            return False
        entry.late = 0
        entry.told.add(UsageError.__name__)  # which says that it was closed
        entry.state = SessionPhase.CLOSING
        return True

    def pinging(self, number: int) -> None:
        """Note that a ping is sent."""
        self._ping = number
        self._closed_before = {n for n, entry in self._entries.items() if entry.state is SessionPhase.CLOSING}

    # -- what the worker reports -------------------------------------------------------------------------

    def check(self, report: FromWorker) -> None:
        """Check one report and move on. Raises BoundaryViolation if it was not due, or holds too much."""
        match report:
            case GuestRequest():  # the most frequent by far
                self._asked(report)
            case InputRequest():
                self._read(report)
            case FuelLow():
                self._dried(report)
            case CellOutput():
                self._wrote(report)
            case Ready():
                if self._ready:
                    raise BoundaryViolation("a worker is ready once")
                self._ready = True
            case Pong(number=number):
                if number != self._ping:
                    raise BoundaryViolation("a pong without its ping")
                if self._closed_before:
                    # It takes messages in the order in which they come, and closes before it goes on.
                    raise BoundaryViolation("a pong before the end of a session that was closed earlier")
                self._ping = None
            case OperationDone():
                self._done(report)
            case SessionClosed(session=session):
                self._move(session, ReportStep.CLOSED)
                self._closed_before.discard(session)

    def _move(self, session: int, step: ReportStep) -> _Entry:
        entry = self._entries.get(session)
        if entry is None:
            raise BoundaryViolation("a report about a session that this worker does not hold")
        if step not in TRANSITIONS[entry.state]:
            raise BoundaryViolation(f"a report out of order: {step.value} while {entry.state.value}")
        after = TRANSITIONS[entry.state][step]
        if after is None:
            del self._entries[session]
        else:
            entry.state = after
        return entry

    def _asked(self, report: GuestRequest) -> None:
        entry = self._move(report.session, ReportStep.ASKED)
        self._is_of(entry, report.operation)
        self._is_in_time(entry)
        entry.asked += 1
        if entry.cell is None or entry.asked > FLOOD_FACTOR * entry.cell.requests_max + 1:
            raise BoundaryViolation("more requests than a cell can have")
        if len(report.frame) > entry.boundary.frame_bytes_max:
            raise BoundaryViolation("a request longer than the policy allows")

    def _read(self, report: InputRequest) -> None:
        entry = self._move(report.session, ReportStep.ASKED)
        self._is_of(entry, report.operation)
        self._is_in_time(entry)
        # The cell has paid for each before it could ask for the next.
        if entry.cell is None or entry.read_fuel > entry.fuel:
            raise BoundaryViolation("more read of its inputs than a cell has fuel for")
        entry.read_fuel += asked_of(report).fuel

    def _dried(self, report: FuelLow) -> None:
        entry = self._move(report.session, ReportStep.DRIED)
        self._is_of(entry, report.operation)
        self._is_in_time(entry)
        if not entry.refuels:
            raise BoundaryViolation("more fuel wanted where none is due")

    def _wrote(self, report: CellOutput) -> None:
        entry = self._move(report.session, ReportStep.WROTE)
        self._is_of(entry, report.operation)
        if entry.cell is None or not entry.live or not report.chunks:
            raise BoundaryViolation("output where none is due")
        for stream, data in report.chunks:
            entry.written[stream] = entry.written.get(stream, 0) + len(data)
        # Each report holds a byte at least, so these bound their number as well.
        if (
            entry.written.get(1, 0) > entry.cell.stdout_bytes_max
            or entry.written.get(2, 0) > entry.cell.stderr_bytes_max
        ):
            raise BoundaryViolation("more output than a cell can have")

    @staticmethod
    def _is_in_time(entry: _Entry) -> None:
        if entry.state not in (SessionPhase.WAITING, SessionPhase.DRY):
            entry.late += 1
            if entry.late > 1:
                raise BoundaryViolation("a request after the operation was told to end")

    def _done(self, report: OperationDone) -> None:
        entry = self._move(report.session, ReportStep.DONE)
        self._is_of(entry, report.operation)
        # Done twice while closing: the number is used up.
        entry.operation = 0
        cell, entry.cell = entry.cell, None
        if report.error is not None:
            if report.result is not None or report.image is not None:
                raise BoundaryViolation("an error with a result")
            check_error(entry.kind, report.error, entry.told, lost=entry.lost)
            entry.lost = True
            if not entry.opened and entry.state is SessionPhase.IDLE:
                del self._entries[report.session]  # it was never made
            return
        entry.opened = True
        if (report.result is None) != (cell is None):
            raise BoundaryViolation("a result where none is due, or none where one is")
        if (report.image is None) == (entry.kind is Operation.IMAGE):
            raise BoundaryViolation("a snapshot where none is due, or none where one is")
        if report.result is not None and cell is not None:
            _check_result(report.result, cell, entry.session, entry.fuel)
            check_cell(report.result, entry.told)
            entry.lost = entry.lost or report.result.session_state is SessionState.LOST
        if report.image is not None:
            size, runs = report.image.size, report.image.runs
            sized = size % _PAGE_BYTES == 0 and size <= entry.session.memory_bytes_max
            if not sized or runs > size // _RUN_BYTES or report.image.virtual_ns > VIRTUAL_NS_MAX:
                raise BoundaryViolation("a snapshot that no session of this policy can have")

    @staticmethod
    def _is_of(entry: _Entry, operation: int) -> None:
        if operation != entry.operation or operation == 0:
            raise BoundaryViolation("a report about another operation")


def asked_of(report: InputRequest) -> InputAsked:
    """Return what a report asks of an input. Raises BoundaryViolation: it is more than any worker may."""
    op, number, offset, length, needle = report.op, report.number, report.offset, report.length, report.needle
    return InputAsked(op, number, offset, length, needle).checked(read_bytes_max=WINDOW_BYTES_MAX)


def _check_result(result: CellResult, cell: CellLimits, session: SessionLimits, fuel_max: int) -> None:
    too_much = (
        len(result.stdout) > cell.stdout_bytes_max
        or len(result.stderr) > cell.stderr_bytes_max
        or len(result.result or "") > cell.result_bytes_max
        or len(result.value_frame or b"") > cell.result_bytes_max
        or result.fuel_used > fuel_max
        or result.memory_peak_bytes > session.memory_bytes_max
    )
    if too_much:
        raise BoundaryViolation("a result beyond the limits of its cell")


def report_bytes_max(cell: CellLimits, boundary: BoundaryLimits) -> int:
    """Return what one report of a worker can take under these limits."""
    # The result twice: as it is shown, and as a value.
    texts = cell.stdout_bytes_max + cell.stderr_bytes_max + 2 * cell.result_bytes_max
    texts += 3 * TRACEBACK_CHARS_MAX + DRAFT_CHARS_MAX
    return max(_GROWTH * texts, boundary.frame_bytes_max) + _REPORT_BYTES_BESIDE
