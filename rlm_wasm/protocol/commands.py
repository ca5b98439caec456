"""The commands to a session scheduler and its reports, the same inline and behind a socket.

Each names its session. Commands are performed in the order they were given; a session reports in order
too: any number of `Requested`, `InputWanted`, `FuelNeeded` and `Wrote`, then one `Done` for every command
that begins something (Open, Load, StartCell, Rebase, TakeSnapshot).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rlm_wasm.errors import GuestError, RlmWasmError
from rlm_wasm.ids import SessionId
from rlm_wasm.limits import BoundaryLimits, SessionLimits
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.input_reads import InputAsked, InputPart, InputWindow
from rlm_wasm.protocol.input_value import HeldInput
from rlm_wasm.protocol.session_snapshot import SessionSnapshot
from rlm_wasm.protocol.text_layout import LaidOut
from rlm_wasm.results import CellResult


@dataclass(frozen=True, slots=True)
class Open:
    """Make a session, from a snapshot if there is one. `entropy(n)` gives its random bytes."""

    session: SessionId
    limits: SessionLimits
    boundary: BoundaryLimits
    entropy: Callable[[int], bytes]
    sink: Callable[[Report], None]
    start: SessionSnapshot | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Bind an input in the guest. What is `held` is a file as well, which its host reads for it."""

    session: SessionId
    name: str
    value: str | bytes | LaidOut
    held: HeldInput | None = None


@dataclass(frozen=True, slots=True)
class StartCell:
    """StartCell a cell.

    With `checkpoint_bytes_max` above 0 the state before it is kept, if it takes no more, and the
    session goes back to it should the cell end the guest.
    """

    session: SessionId
    cell: Cell
    checkpoint_bytes_max: int = 0


@dataclass(frozen=True, slots=True)
class Rebase:
    """Make the present state the session's origin."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Report a snapshot of the session."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """Answer the request the session waits with."""

    session: SessionId
    response: bytes


@dataclass(frozen=True, slots=True)
class AnswerInput:
    """Answer what the session asked of an input, and waits for."""

    session: SessionId
    part: InputPart


@dataclass(frozen=True, slots=True)
class Refuel:
    """Let the cell that reported `FuelNeeded` use so much more; 0: it has to end with what it has."""

    session: SessionId
    fuel: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End the session's operation with this error; it still reports Done."""

    session: SessionId
    error: GuestError


@dataclass(frozen=True, slots=True)
class InterruptOperation:
    """Ask the session's cell to end by an exception in the guest."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class Close:
    """Free the session, whatever it does. `closed()` is called once, when nothing is left of it."""

    session: SessionId
    closed: Callable[[], None] = lambda: None


Command = (
    Open
    | Load
    | StartCell
    | Rebase
    | TakeSnapshot
    | AnswerRequest
    | AnswerInput
    | Refuel
    | InterruptOperation
    | Stop
    | Close
)


@dataclass(frozen=True, slots=True)
class Requested:
    """The guest waits for the response to this frame."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class InputWanted:
    """The guest waits for something of an input that lies with its host.

    `into`: where a long answer goes, named by whoever brings the report to the host.
    """

    asked: InputAsked
    into: InputWindow | None = None


@dataclass(frozen=True, slots=True)
class FuelNeeded:
    """The cell waits to be told how much more fuel it gets."""


@dataclass(frozen=True, slots=True)
class Done:
    """The operation is over: with a cell's result, a snapshot, with nothing, or with an error."""

    result: CellResult | None = None
    snapshot: SessionSnapshot | None = None
    error: RlmWasmError | None = None


# No report has more parts than this, however often code changes streams (`PendingOutput`).
CHUNKS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Wrote:
    """A live cell has written this since it said so last: streams, 1 or 2, and their bytes, in order.

    At most `CHUNKS_MAX` of them.
    """

    chunks: tuple[tuple[int, bytes], ...]


Report = Requested | InputWanted | FuelNeeded | Wrote | Done
