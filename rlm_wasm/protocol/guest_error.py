"""The document of the guest's REPL at the end of a cell: its exception, its variables, its draft answer.

Guest-made text like any other: typed and bounded here, shown to the model, never acted upon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec

from rlm_wasm.errors import BoundaryViolation
from rlm_wasm.protocol.guest_frames import check_shape
from rlm_wasm.results import DRAFT_CHARS_MAX, NAME_CHARS_MAX, VARIABLES_MAX

# The REPL cuts its own output well below these; they bound a guest that has rewritten it.
ERROR_FRAME_BYTES_MAX: Final = 262_144
VARIABLES_FRAME_BYTES_MAX: Final = 524_288
_NESTING_MAX: Final = 4

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]


@dataclass(frozen=True, slots=True)
class GuestErrorReport:
    """The exception that ended a cell, and the variables if the same frame names them."""

    type_name: str
    message: str
    traceback: str
    variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CellVariables:
    """The names that the session's namespace holds after a cell, and a draft of the answer if it is new."""

    variables: tuple[str, ...]
    draft: str | None = None


class _ErrorFrame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Name
    message: str
    traceback: str
    variables: tuple[Name, ...] = ()


class _VariablesFrame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    variables: tuple[Name, ...]
    draft: Annotated[str, msgspec.Meta(max_length=DRAFT_CHARS_MAX)] | None = None


_ERROR_DECODER: Final = msgspec.json.Decoder(_ErrorFrame)
_VARIABLES_DECODER: Final = msgspec.json.Decoder(_VariablesFrame)
_Frame = TypeVar("_Frame")


def decode_guest_error(frame: bytes) -> GuestErrorReport:
    """Decode an exception report; the only exception that leaves this function is BoundaryViolation."""
    decoded = _decode(frame, _ERROR_DECODER, ERROR_FRAME_BYTES_MAX)
    return GuestErrorReport(decoded.type, decoded.message, decoded.traceback, decoded.variables)


def decode_cell_report(frame: bytes) -> CellVariables:
    """Decode what a cell left; the only exception that leaves this function is BoundaryViolation."""
    decoded = _decode(frame, _VARIABLES_DECODER, VARIABLES_FRAME_BYTES_MAX)
    return CellVariables(decoded.variables, decoded.draft)


def _decode(frame: bytes, decoder: msgspec.json.Decoder[_Frame], bytes_max: int) -> _Frame:
    try:
        check_shape(frame, bytes_max=bytes_max, nesting_max=_NESTING_MAX, strings_max=VARIABLES_MAX)
        return decoder.decode(frame)
    except BoundaryViolation:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever a decoder raises, the guest did it
        raise BoundaryViolation(f"the report frame is malformed ({type(exc).__name__})") from None
