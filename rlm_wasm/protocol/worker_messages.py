"""The messages between the host and a worker process, each way a closed set.

MessagePack arrays, tagged by a number. The host's are commands and trusted; a worker's are reports,
as untrusted as a guest's frames: `decode_report` is their gate. Every report that ends an operation
names it, so that a report for another one is seen. Memory files travel from the host only, at most one
beside a frame: what a session starts from, an input or a window of one, and what the worker writes into.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

from rlm_wasm import errors
from rlm_wasm.errors import BoundaryViolation, GuestError, GuestException, RlmWasmError
from rlm_wasm.limits import BoundaryLimits, SessionLimits
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import CHUNKS_MAX
from rlm_wasm.protocol.input_reads import NEEDLE_BYTES_MAX, InputOp
from rlm_wasm.protocol.input_value import HeldInput
from rlm_wasm.results import NAME_CHARS_MAX, CellResult

# Bounds that no honest report comes near; the caps of a cell's own limits are checked by who knows them.
MESSAGE_CHARS_MAX: Final = 8_192
TRACEBACK_CHARS_MAX: Final = 262_144

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Name = Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX)]
Message = Annotated[str, msgspec.Meta(max_length=MESSAGE_CHARS_MAX)]
Traceback = Annotated[str, msgspec.Meta(max_length=TRACEBACK_CHARS_MAX)]


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A message of either direction."""


# -- host to worker ---------------------------------------------------------------------------------


class OpenSession(_Message, frozen=True, tag=1):
    """Make a session, from the image whose file comes along if `image` is not 0.

    Where the policy names a seed, its number is the stream of its random bytes unless the limits name one.
    """

    session: int
    operation: int
    limits: SessionLimits
    boundary: BoundaryLimits
    image: int = 0
    image_size: int = 0
    image_virtual_ns: int = 0
    image_runs: int = 0


class LoadValue(_Message, frozen=True, tag=2):
    """Bind an input. Its characters, laid out as the guest stores them, are in `data` or in a file."""

    session: int
    operation: int
    name: str
    is_text: bool
    units: int
    bytes_per_unit: int
    max_char: int
    data: bytes | None
    is_json: bool = False
    held: HeldInput | None = None


class RunCell(_Message, frozen=True, tag=3):
    """Run a cell."""

    session: int
    operation: int
    cell: Cell
    checkpoint_bytes_max: int


class RebaseSession(_Message, frozen=True, tag=4):
    """Make the present state the session's origin."""

    session: int
    operation: int


class SnapshotSession(_Message, frozen=True, tag=5):
    """Write the session's state into the blank file that comes along, and seal it."""

    session: int
    operation: int


class RespondTo(_Message, frozen=True, tag=6):
    """Answer the request the session waits with."""

    session: int
    response: bytes


class InterruptCell(_Message, frozen=True, tag=7):
    """Ask the session's cell to end."""

    session: int


class StopOperation(_Message, frozen=True, tag=8):
    """End the session's operation with this error."""

    session: int
    error: ErrorReport


class CloseSession(_Message, frozen=True, tag=9):
    """Free the session; answered by SessionClosed."""

    session: int


class Ping(_Message, frozen=True, tag=10):
    """Show that you live; answered by Pong with the same number."""

    number: int


class RefuelCell(_Message, frozen=True, tag=11):
    """Let the cell that said FuelLow use so much more; 0: it has to end with what it has."""

    session: int
    fuel: int


class LendArena(_Message, frozen=True, tag=12):
    """The file that comes along is for all that the worker keeps in memory files. The first message."""


class GiveInput(_Message, frozen=True, tag=13):
    """Answer what the session asked of an input: the bytes, or why there are none.

    Or `filled` bytes are in the window of the session: the file that comes along, or that came last.
    """

    session: int
    status: int
    data: bytes
    filled: int = 0


# -- worker to host ---------------------------------------------------------------------------------


class ErrorReport(_Message, frozen=True):
    """One of our errors, by its name in a closed table."""

    kind: Name
    message: Message
    hint: Message | None = None
    traceback: Traceback = ""
    guest_type: Name = ""
    guest_message: Traceback = ""
    key: Name | None = None
    limit: Count | None = None


class ImageReport(_Message, frozen=True):
    """What the file that was lent for it holds now: the pages of a session."""

    size: Count
    virtual_ns: Count
    runs: Count


class Ready(_Message, frozen=True, tag=32):
    """The first report: the process is locked down and serves."""


class GuestRequest(_Message, frozen=True, tag=33):
    """The guest of this operation waits for the response to `frame`, hostile bytes."""

    session: Count
    operation: Count
    frame: bytes


class OperationDone(_Message, frozen=True, tag=34):
    """The operation is over: with a cell's result, an image, nothing, or an error.

    A result's error travels as an ErrorReport, and is made by the decoder.
    """

    session: Count
    operation: Count
    result: CellResult | None = None
    image: ImageReport | None = None
    error: ErrorReport | None = None


class SessionClosed(_Message, frozen=True, tag=35):
    """The session is gone; nothing more comes from it."""

    session: Count


class Pong(_Message, frozen=True, tag=36):
    """The answer to the ping of this number."""

    number: Count


class FuelLow(_Message, frozen=True, tag=37):
    """The cell of this operation waits to be told how much more fuel it gets."""

    session: Count
    operation: Count


# A stream, 1 or 2, and some bytes of it.
_Chunk: TypeAlias = tuple[
    Annotated[int, msgspec.Meta(ge=1, le=2)], Annotated[bytes, msgspec.Meta(min_length=1)]
]


class CellOutput(_Message, frozen=True, tag=38):
    """What the live cell of this operation has written since the last of these, in order."""

    session: Count
    operation: Count
    chunks: Annotated[tuple[_Chunk, ...], msgspec.Meta(max_length=CHUNKS_MAX)]


class InputRequest(_Message, frozen=True, tag=39):
    """The guest of this operation asks this of an input, and waits."""

    session: Count
    operation: Count
    op: InputOp
    number: Count
    offset: Count
    length: Count
    needle: Annotated[bytes, msgspec.Meta(max_length=NEEDLE_BYTES_MAX)]


ToWorker: TypeAlias = (
    OpenSession | LoadValue | RunCell | RebaseSession | SnapshotSession
    | RespondTo | GiveInput | RefuelCell | InterruptCell | StopOperation | CloseSession | Ping | LendArena
)  # fmt: skip
FromWorker: TypeAlias = (
    Ready | GuestRequest | InputRequest | FuelLow | CellOutput | OperationDone | SessionClosed | Pong
)


def _error_out(value: object) -> object:
    if isinstance(value, GuestError):
        return encode_error(value)
    raise NotImplementedError


def _error_in(kind: type, value: object) -> GuestError:
    error = decode_error(msgspec.convert(value, ErrorReport))
    if kind is not GuestError or not isinstance(error, GuestError):
        raise BoundaryViolation("a cell ended by an error that is no guest's")
    return error


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_error_out)
_COMMANDS: Final[msgspec.msgpack.Decoder[ToWorker]] = msgspec.msgpack.Decoder(ToWorker)
_REPORTS: Final[msgspec.msgpack.Decoder[FromWorker]] = msgspec.msgpack.Decoder(FromWorker, dec_hook=_error_in)


def encode(message: ToWorker | FromWorker) -> bytes:
    """Return a message's bytes."""
    return _ENCODER.encode(message)


def decode_command(frame: bytes) -> ToWorker:
    """Decode what the host sent."""
    return _COMMANDS.decode(frame)


def decode_report(frame: bytes) -> FromWorker:
    """Decode what a worker sent; the only exception that leaves this function is BoundaryViolation."""
    try:
        return _REPORTS.decode(frame)
    except BoundaryViolation:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever a decoder raises, the worker did it
        # Not chained: the decoder's message may quote the frame.
        raise BoundaryViolation(f"the report is malformed ({type(exc).__name__})") from None


# -- errors -----------------------------------------------------------------------------------------

# What a worker may say went wrong. The host makes no other class by a name that comes from outside.
_ERRORS: Final[dict[str, type[RlmWasmError]]] = {
    kind.__name__: kind
    for kind in (
        errors.FuelExhausted,
        errors.MemoryExceeded,
        errors.DeadlineExceeded,
        errors.OutputExceeded,
        errors.RequestsExceeded,
        errors.SourceExceeded,
        errors.BoundaryViolation,
        errors.GuestTrap,
        errors.CellCancelled,
        errors.WorkerLost,
        errors.UsageError,
        errors.PolicyError,
        errors.ArtifactError,
        errors.HostExhausted,
        errors.InternalError,
    )
}


def encode_error(error: RlmWasmError) -> ErrorReport:
    """Return an error as a report, its texts cut to what a report may hold."""
    traceback = _text(error.traceback, TRACEBACK_CHARS_MAX) if isinstance(error, GuestError) else ""
    message = _text(error.message, MESSAGE_CHARS_MAX)
    hint = None if error.hint is None else _text(error.hint, MESSAGE_CHARS_MAX)
    if isinstance(error, GuestException):
        return ErrorReport(
            kind="GuestException",
            message="",
            traceback=traceback,
            guest_type=_text(error.type_name, NAME_CHARS_MAX),
            guest_message=_text(error.guest_message, TRACEBACK_CHARS_MAX),
        )
    key, limit = (error.key, error.limit) if isinstance(error, GuestError) else (None, None)
    kind = kind_of(error)
    if kind not in _ERRORS or key not in _keys_of(_ERRORS[kind]):
        key = limit = None  # of a class of a caller's own
    return ErrorReport(kind, message, hint, traceback, key=key, limit=limit)


def kind_of(error: RlmWasmError) -> str:
    """Return the name by which a report speaks of an error."""
    if isinstance(error, GuestException):
        return "GuestException"
    named = (base.__name__ for base in type(error).__mro__ if base.__name__ in _ERRORS)
    # Of another class of a caller's own: the reason why it ends a cell.
    return next(named, "CellCancelled" if isinstance(error, GuestError) else "InternalError")


def decode_error(report: ErrorReport) -> RlmWasmError:
    """Return the error that a report speaks of. Raises BoundaryViolation if its name or key is none of ours.

    Which of them a worker may speak of at all, and what its host makes of that, is `host/endings.py`.
    """
    if report.kind == "GuestException":
        return GuestException(report.guest_type, report.guest_message, report.traceback)
    kind = _ERRORS.get(report.kind)
    if kind is None:
        raise BoundaryViolation("a report names no error of ours")
    hint = None if report.hint is None else _line(report.hint)
    if report.key is not None and report.key not in _keys_of(kind):
        raise BoundaryViolation("a report names no limit of ours")
    if issubclass(kind, GuestError):
        message, key = _line(report.message), report.key
        return kind(message, hint=hint, traceback=report.traceback, key=key, limit=report.limit)
    return kind(_line(report.message), hint=hint)


def _keys_of(kind: type[RlmWasmError]) -> tuple[str, ...]:
    return kind.keys if issubclass(kind, GuestError) else ()


def _line(text: str) -> str:
    """Return a sentence of ours as one line that any terminal can show: a worker may say anything."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def _text(text: str, chars_max: int) -> str:
    """Cut to what a report may hold; lone surrogates, which UTF-8 cannot hold, are replaced."""
    cut = text if len(text) <= chars_max else text[: chars_max - 1] + "…"
    return cut if cut.isascii() else cut.encode("utf-8", "replace").decode()
