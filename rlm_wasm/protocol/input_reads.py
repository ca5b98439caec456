"""The questions that a guest may ask of an input that lies with its host: `rlm.read`, typed and bounded.

The first argument of the call says what is asked and of which input. Everything here is checked where the
call is made, and once more by the host, which believes no worker.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final, Protocol

from rlm_wasm.errors import BoundaryViolation, InternalError

# What one call reads at most, and what one looks through.
PART_BYTES_MAX: Final = 1 << 20
# What is read ahead of a guest that reads on: so much fits into a window.
WINDOW_BYTES_MAX: Final = 8 << 20
# An answer that can be longer goes into a window, where there is one; a shorter one beside its message.
SENT_BYTES_MAX: Final = 64 << 10
SEARCHED_BYTES_MAX: Final = 64 << 20
NEEDLE_BYTES_MAX: Final = 4096
# Characters are counted by pages of so many bytes.
PAGE_BYTES: Final = 1 << 20
PAGES_MAX: Final = SEARCHED_BYTES_MAX // PAGE_BYTES
NUMBERS: Final = 1 << 24
OFFSET_MAX: Final = 1 << 62
# In fuel: what a call costs its host, a byte that is read and copied, and one that is looked at.
FUEL_PER_CALL: Final = 100_000
FUEL_PER_BYTE_READ: Final = 4
FUEL_PER_BYTE_SEARCHED: Final = 4

# Error numbers as the guest's library has them.
OK, INTERRUPTED, FAILED, MISSING, CHANGED = 0, 27, 29, 44, 72
STATUSES: Final = frozenset({OK, INTERRUPTED, FAILED, MISSING, CHANGED})

_SEARCH_HEAD: Final = struct.Struct("<qq")
_FOUND: Final = struct.Struct("<qq")
_SIZE: Final = struct.Struct("<q")
_COUNT_BYTES: Final = 4


class InputOp(enum.IntEnum):
    """What is asked. The numbers are those of `guest/shim/inputs.c`."""

    READ = 0
    SIZE = 1
    FIND = 2
    COUNT = 3
    CHARACTERS = 4  # how many begin in each page


# What the guest hands over with a call, at most, and what it gets back for the buffer's sake.
_SEARCHES: Final = frozenset({InputOp.FIND, InputOp.COUNT})


@dataclass(frozen=True, slots=True)
class InputAsked:
    """One question: `length` bytes from `offset` of input `number`, to be read or looked through."""

    op: InputOp
    number: int
    offset: int
    length: int
    needle: bytes = b""

    @property
    def fuel(self) -> int:
        """What it costs the guest, whatever comes of it."""
        each = FUEL_PER_BYTE_READ if self.op is InputOp.READ else FUEL_PER_BYTE_SEARCHED
        return FUEL_PER_CALL + each * self.length

    @property
    def answer_bytes_max(self) -> int:
        """How long its answer can be."""
        match self.op:
            case InputOp.READ:
                return self.length
            case InputOp.SIZE:
                return _SIZE.size
            case InputOp.CHARACTERS:
                return self.length // PAGE_BYTES * _COUNT_BYTES
        return _FOUND.size

    @property
    def wants_window(self) -> bool:
        """Whether its answer goes into a window, where there is one."""
        return self.op is InputOp.READ and self.length > SENT_BYTES_MAX

    def checked(self, *, read_bytes_max: int = PART_BYTES_MAX) -> InputAsked:
        """Return it. Raises BoundaryViolation if it is more than may be asked."""
        most = read_bytes_max if self.op is InputOp.READ else SEARCHED_BYTES_MAX
        fits = 0 <= self.length <= most and 0 <= self.offset <= OFFSET_MAX and 0 <= self.number < NUMBERS
        has_needle = 1 <= len(self.needle) <= NEEDLE_BYTES_MAX if self.op in _SEARCHES else not self.needle
        whole = self.op is not InputOp.CHARACTERS or self.length % PAGE_BYTES == 0
        if not (fits and has_needle and whole and (self.op is not InputOp.SIZE or self.length == 0)):
            raise BoundaryViolation(f"more of an input than a call may ask for ({self.op.name.lower()})")
        return self


@dataclass(frozen=True, slots=True)
class InputPart:
    """The answer: the bytes for the guest's buffer, or why there are none.

    Bytes in a window are not here: `filled` says how many there are.
    """

    data: bytes | memoryview = b""
    status: int = OK
    filled: int = 0

    def checked(self, asked: InputAsked) -> InputPart:
        """Return it. Raises InternalError if it answers something else: it is our own host's."""
        if (
            self.status not in STATUSES
            or len(self.data) > asked.answer_bytes_max
            or (self.status and self.data)
            or self.filled
        ):
            raise InternalError("no answer to what was asked of an input")
        return self


class InputWindow(Protocol):
    """Memory that the host fills with a part of an input, and that a guest is given its bytes from."""

    def view(self, length: int) -> memoryview:
        """Return its first bytes, to be written by a system call and nothing else."""

    def put(self, at: int, data: memoryview) -> None:
        """Write some of it. Raises OSError: whoever has it as well has cut it."""

    def part(self, filled: int) -> InputPart:
        """Return the answer that its first bytes are."""

    def abandon(self) -> None:
        """Somebody may be filling it still who is not waited for: nothing else is to come into it."""


def request_bytes_max(number: int) -> int:
    """Return how many bytes of memory a call of this kind hands over, or has room for.

    Raises:
        BoundaryViolation: there is no such kind.
    """
    match _op(number):
        case InputOp.READ:
            return PART_BYTES_MAX
        case InputOp.SIZE:
            return _SIZE.size
        case InputOp.CHARACTERS:
            return PAGES_MAX * _COUNT_BYTES
    return _SEARCH_HEAD.size + NEEDLE_BYTES_MAX


def is_search(number: int) -> bool:
    """Whether a call of this kind hands something over."""
    return _op(number) in _SEARCHES


def decode_asked(number: int, offset: int, length: int, given: bytes) -> InputAsked:
    """Return what a call asks. `given` is what it handed over, if that is a search.

    Raises:
        BoundaryViolation: no module of the guest's own asks that.
    """
    op, input_number = _op(number), number & (NUMBERS - 1)
    if op is InputOp.READ:
        return InputAsked(op, input_number, offset, length).checked()
    if op is InputOp.SIZE:
        if length < _SIZE.size or offset != 0:
            raise BoundaryViolation("a size wants eight bytes")
        return InputAsked(op, input_number, 0, 0)
    if op is InputOp.CHARACTERS:
        return InputAsked(op, input_number, offset, length // _COUNT_BYTES * PAGE_BYTES).checked()
    if len(given) <= _SEARCH_HEAD.size:
        raise BoundaryViolation("a search for nothing")
    end, _ = _SEARCH_HEAD.unpack_from(given)
    span = min(max(0, end - offset), SEARCHED_BYTES_MAX)
    return InputAsked(op, input_number, offset, span, given[_SEARCH_HEAD.size :]).checked()


def encode_found(found: int, go_on_at: int) -> bytes:
    """Return the answer to a search: a place or a count, and where the next step begins."""
    return _FOUND.pack(found, go_on_at)


def encode_size(size: int) -> bytes:
    """Return the answer to a question for a size."""
    return _SIZE.pack(size)


def encode_counts(counts: list[int]) -> bytes:
    """Return the answer to a question for characters: how many begin in each page."""
    return struct.pack(f"<{len(counts)}I", *counts)


def _op(number: int) -> InputOp:
    try:
        return InputOp(number >> 24)
    except ValueError:
        raise BoundaryViolation(f"the guest asked {number:#x} of an input") from None
