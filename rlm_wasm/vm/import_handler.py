"""The host's side of the seven imports, for one operation of a guest.

Made anew for each cell or load, so that nothing pending outlives it. Requests, responses, streams,
clock, sleep and entropy of exactly one operation live here; limits are counted here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from time import monotonic_ns, time_ns
from typing import Final

from rlm_wasm.errors import (
    BoundaryViolation,
    DeadlineExceeded,
    GuestError,
    InternalError,
    OutputExceeded,
    RequestsExceeded,
)
from rlm_wasm.limits import BoundaryLimits, CellLimits, SessionLimits
from rlm_wasm.protocol.cell import FLOOD_FACTOR
from rlm_wasm.protocol.input_reads import (
    FUEL_PER_CALL,
    InputAsked,
    InputOp,
    InputPart,
    decode_asked,
    is_search,
    request_bytes_max,
)
from rlm_wasm.protocol.pending_output import PendingOutput
from rlm_wasm.vm.imports import ENTROPY_BYTES_MAX
from rlm_wasm.vm.instance import Instance
from rlm_wasm.vm.read_ahead import ReadAhead

STDOUT, STDERR, RESULT, ERROR, REPORT, VALUE = 1, 2, 3, 4, 5, 6
# How the guest says what it left in the inbox: a stream and a length, before as many bytes.
_RECORD: Final = struct.Struct("<II")
LEFT_BYTES_MAX: Final = 2048
# The error and report documents are made by the guest's REPL, which bounds them well below this.
CONTROL_STREAM_BYTES_MAX: Final = 512 << 10
# A guest that ignores being told that its output is full is stopped after so much more.
DROPPED_BYTES_MAX: Final = 1 << 20
# Responses to what is not looked at: in form what `protocol.guest_frames` gives for these errors.
_TOO_LONG: Final = (
    b'{"status":"denied","error":{"type":"LimitExceeded","message":'
    b'"a request of %d bytes; boundary.frame_bytes_max allows %d"}}'
)
_TOO_MANY: Final = (
    b'{"status":"denied","error":{"type":"BudgetExceeded","message":'
    b'"request %d of a cell; cell.requests_max allows %d"}}'
)
# The virtual clock: starts at a fixed date, runs with fuel (12 fuel a nanosecond, the measured speed).
VIRTUAL_EPOCH_NS: Final = 1_700_000_000_000_000_000
FUEL_PER_VIRTUAL_NS: Final = 12


class OperationImports:
    """The handler of the seven imports for one operation. `in_cell` is False while an input is loaded:
    every import is refused then.
    """

    __slots__ = (
        "_answered",
        "_asked",
        "_boundary",
        "_cell",
        "_entropy",
        "_fuel_kept",
        "_in_cell",
        "_instance",
        "_memory",
        "_overflowed",
        "_read_ahead",
        "_read_length",
        "_read_pointer",
        "_read_result",
        "_reply",
        "_reply_capacity",
        "_requests",
        "_response",
        "_session",
        "_slept_ns",
        "_virtual_ns",
        "dropped_bytes",
        "fault",
        "flooded",
        "fuel_granted",
        "fuel_low",
        "gave_way",
        "must_stop",
        "overslept",
        "request",
        "slice_began_ns",
        "streams",
        "value_bytes",
        "wake_ns",
        "wrote",
    )

    def __init__(
        self,
        instance: Instance,
        cell: CellLimits,
        session: SessionLimits,
        boundary: BoundaryLimits,
        entropy: Callable[[int], bytes],
        *,
        in_cell: bool,
        virtual_ns: int,
        fuel_kept: int,
    ) -> None:
        self._instance: Final = instance
        self._memory: Final = instance.memory
        self._cell: Final = cell
        self._session: Final = session
        self._boundary: Final = boundary
        self._entropy: Final = entropy
        self._in_cell: Final = in_cell
        self._virtual_ns = virtual_ns
        self.slice_began_ns = 0
        self.fault: GuestError | None = None
        # Set when an import gave the slice back; the next stop is then no fuel yield.
        self.gave_way = False
        # Set at the first dropped output and when fuel runs low, so that the guest hears of it at once.
        self.must_stop = False
        self.fuel_low = False
        self.fuel_granted = cell.fuel_max
        self._fuel_kept = fuel_kept
        self.request: bytes | InputAsked | None = None
        # What was asked of an input and is not answered, where the bytes go, and how the answer came out.
        self._asked: InputAsked | None = None
        self._read_pointer = self._read_length = 0
        self._read_result: int | None = None
        self._read_ahead = ReadAhead()
        self.wake_ns: int | None = None
        self.dropped_bytes = 0
        self._overflowed = STDOUT  # the stream of which something was dropped first
        self.overslept = False
        self.flooded = False
        self.streams: dict[int, bytearray] = {}
        # How many bytes the last value had that the cell told, also if it was too large to be taken.
        self.value_bytes = 0
        # What a live cell wrote since its host was told last; None: nobody wants it before the end.
        self.wrote: PendingOutput | None = None
        self._requests = 0
        self._response: bytes | None = None
        self._reply = self._reply_capacity = 0
        self._answered = False
        self._slept_ns = 0

    # -- for the session --------------------------------------------------------------------------

    def take_request(self) -> bytes | InputAsked | None:
        """Return the request the guest waits with, once."""
        request, self.request = self.request, None
        return request

    def answer(self, response: bytes) -> None:
        """Let the guest have the response."""
        self._response = response
        self._answered = True

    def give(self, part: InputPart) -> None:
        """Let the guest have what it asked of an input."""
        asked, self._asked = self._asked, None
        if asked is None:
            raise InternalError("an answer to what was not asked of an input")
        part = part.checked(asked)
        data = part.data
        if asked.op is InputOp.READ and not part.status:
            self._read_ahead.keep(asked, data)
            data = data[: self._read_length]
        # The buffer was checked when the call came; a memory never shrinks.
        self._memory.write(self._read_pointer, data)
        self._read_result = -part.status if part.status else len(data)

    def fuel_used(self) -> int:
        """Return what the operation has used so far."""
        return self.fuel_granted - self._instance.fuel()

    def refuel(self, fuel: int, kept: int) -> None:
        """Let the operation use so much more; with no more than `kept` left, fuel is low again."""
        self.fuel_granted += fuel
        self._fuel_kept = kept
        self.fuel_low = False
        self._instance.set_fuel(self._instance.fuel() + fuel)

    def virtual_at_ns(self, fuel_used: int) -> int:
        """Return the virtual clock at that use of fuel: it runs with it, and jumps over sleeps."""
        return self._virtual_ns + fuel_used // FUEL_PER_VIRTUAL_NS

    # -- ImportHandler ------------------------------------------------------------------------------

    def charge(self, fuel: int) -> None:
        """Take fuel for host work."""
        left = max(self._instance.fuel() - fuel, 0)
        self._instance.set_fuel(left)
        # Setting the fuel starts a new slice, so a guest that calls often never ends one by fuel.
        if left <= self._fuel_kept and not self.fuel_low:
            self.fuel_low = self.must_stop = True

    def refuse(self, error: GuestError) -> None:
        """Keep the first reason why this call traps."""
        if self.fault is None:
            self.fault = error

    def wait_result(self) -> int | None:
        """The response's length once it is there; 0 once a sleep is over."""
        if self.wake_ns is not None:
            if monotonic_ns() < self.wake_ns:
                return None
            self.wake_ns = None
            return 0
        if self._read_result is not None:
            result, self._read_result = self._read_result, None
            return result
        if not self._answered or self._response is None:
            return None
        length = len(self._response)
        if length <= self._reply_capacity:
            # The buffer was checked when the call came; a memory never shrinks.
            self._memory.write(self._reply, self._response)
            self._response = None
        return length

    def on_call(self, pointer: int, length: int, reply: int, capacity: int) -> None:
        """Copy the request; the fiber waits until it is answered: by the owner, or here if it is too long."""
        self._only_in_cell()
        self._requests += 1
        # The host denies what goes beyond requests_max with an exception the guest can handle. Far beyond it
        # a loop catches them all, and every denial costs the host real work: nobody looks any more, and
        # the cell is asked to end. One that goes on as often again is stopped.
        allowed = self._cell.requests_max
        if self._requests > 2 * FLOOD_FACTOR * allowed:
            raise BoundaryViolation(f"{self._requests} requests where {allowed} are allowed")
        memory_max, frame_max = self._session.memory_bytes_max, self._boundary.frame_bytes_max
        self._memory.check(pointer, length, length_max=memory_max)
        self._reply = self._memory.check(reply, capacity, length_max=memory_max)
        self._reply_capacity = capacity & 0xFFFF_FFFF
        size = length & 0xFFFF_FFFF
        if self._requests > FLOOD_FACTOR * allowed:
            self.flooded = self.must_stop = True
            self.answer(_TOO_MANY % (self._requests, allowed))
            return
        if size > frame_max:
            # Anyone's long text does that. It is not read, and the code that sent it is told.
            self.answer(_TOO_LONG % (size, frame_max))
            return
        self.request = self._memory.read(pointer, length, length_max=frame_max)
        self._response = None
        self._answered = False

    def on_take(self, pointer: int, capacity: int) -> int:
        """Write the response where the guest wants it, once."""
        self._only_in_cell()
        response, self._response = self._response, None
        if response is None or capacity < len(response):
            raise BoundaryViolation("the guest took a response that is not there, or too large for it")
        self._memory.write(pointer, response)
        return len(response)

    def on_emit(self, stream: int, pointer: int, length: int) -> int:
        """Append to a stream, up to its cap; beyond it output is dropped, and soon the guest is stopped."""
        self._only_in_cell()
        cap = self._cap(stream)
        wanted = length & 0xFFFF_FFFF
        self._memory.check(pointer, length, length_max=self._session.memory_bytes_max)
        if stream == VALUE:
            if self._takes_value(wanted):
                self.streams[VALUE] = bytearray(self._memory.read(pointer, length, length_max=cap))
            return 0
        buffer = self.streams.setdefault(stream, bytearray())
        part = min(cap - len(buffer), wanted)
        if part > 0:
            data = self._memory.read(pointer, part, length_max=part)
            buffer += data
            if self.wrote is not None and stream in (STDOUT, STDERR):
                self.wrote.add(((stream, data),))
        if part < wanted and stream != RESULT:
            if stream not in (STDOUT, STDERR):
                raise BoundaryViolation(f"more than {cap} bytes on stream {stream}")
            if not self.dropped_bytes:
                self.must_stop = True
                self._overflowed = stream
            self.dropped_bytes += wanted - part
            if self.dropped_bytes > DROPPED_BYTES_MAX:
                raise self.output_exceeded()
        return 0

    def _takes_value(self, size: int) -> bool:
        """Forget the value there was, and note how large the next one is; return whether it may be taken.

        A part of one is none: it comes whole, or not at all.
        """
        self.streams.pop(VALUE, None)
        self.value_bytes = size
        return size <= self._cell.result_bytes_max

    def asked_too_often(self) -> RequestsExceeded:
        """Return the error that says how many requests a cell may make."""
        most = self._cell.requests_max
        return RequestsExceeded(f"the cell went on asking after its {most} requests", limit=most)

    def slept_too_long(self) -> DeadlineExceeded:
        """Return the error that says which limit a sleep met."""
        most = self._cell.sleep_ms_max
        return DeadlineExceeded(f"the cell slept longer than {most} ms", key="cell.sleep_ms_max", limit=most)

    def collect(self, inbox: int, length: int) -> None:
        """Append what a cell left in the inbox when it returned: its short documents.

        Raises:
            BoundaryViolation: it is not a sequence of documents.
        """
        left = self._memory.read(inbox, length, length_max=LEFT_BYTES_MAX)
        at = 0
        while at < length:
            if length - at < _RECORD.size:
                raise BoundaryViolation("the cell left a document without an end")
            stream, size = _RECORD.unpack_from(left, at)
            at += _RECORD.size
            if stream not in (RESULT, ERROR, REPORT, VALUE) or size > length - at:
                raise BoundaryViolation(f"the cell left {size} bytes for stream {stream}")
            if stream == VALUE and not self._takes_value(size):
                at += size
                continue
            buffer = self.streams.setdefault(stream, bytearray())
            # A result is cut at its cap; no document that fits here reaches that of the others.
            buffer += left[at : at + min(size, max(0, self._cap(stream) - len(buffer)))]
            at += size

    def output_exceeded(self) -> OutputExceeded:
        """Return the error that says which limit the output met."""
        caps = self._cell
        stdout = self._overflowed == STDOUT
        return OutputExceeded(
            f"the cell wrote more than {caps.stdout_bytes_max} bytes to stdout "
            f"or {caps.stderr_bytes_max} to stderr",
            key="cell.stdout_bytes_max" if stdout else "cell.stderr_bytes_max",
            limit=caps.stdout_bytes_max if stdout else caps.stderr_bytes_max,
        )

    def on_clock(self, clock_id: int) -> int:
        """Nanoseconds: of the virtual clock, or of the host's if the policy grants it."""
        self._only_in_cell()
        if self._session.clock == "real":
            return time_ns() if clock_id == 0 else monotonic_ns()
        return self.virtual_at_ns(self.fuel_used()) + (VIRTUAL_EPOCH_NS if clock_id == 0 else 0)

    def on_entropy(self, pointer: int, length: int) -> int:
        """Write random bytes of this session's stream."""
        self._only_in_cell()
        self._memory.check(pointer, length, length_max=ENTROPY_BYTES_MAX)
        self._memory.write(pointer, self._entropy(length))
        return 0

    def on_read(self, number: int, offset: int, pointer: int, length: int) -> int | None:
        """Answer from what was read ahead, or note what is asked and wait; paid by the byte."""
        self._only_in_cell()
        most = request_bytes_max(number)
        self._read_pointer = self._memory.check(pointer, length, length_max=most)
        given = self._memory.read(pointer, length, length_max=most) if is_search(number) else b""
        asked = decode_asked(number, offset, length & 0xFFFF_FFFF, given)
        if asked.op is InputOp.READ:
            self.charge(asked.length)
            if (data := self._read_ahead.take(asked)) is not None:
                self._memory.write(pointer, data)
                return len(data)
            self._read_length = asked.length
            asked = self._read_ahead.wanted(asked)
        self.charge(asked.fuel - FUEL_PER_CALL)
        self._asked = self.request = asked
        self._answered = False
        self._read_result = None
        return None

    def on_sleep(self, nanoseconds: int) -> bool:
        """Start a sleep. On the virtual clock it is over at once, and the clock has moved.

        The first that is not allowed does not begin, and the guest hears of it; the next ends the cell.
        """
        self._only_in_cell()
        allowed = self._cell.sleep_ms_max * 1_000_000 - self._slept_ns
        if nanoseconds < 0 or nanoseconds > allowed:
            if self.overslept:  # it has been told, and sleeps on
                raise self.slept_too_long()
            self.overslept = self.must_stop = True
            return False
        self._slept_ns += nanoseconds
        if self._session.clock == "virtual":
            self._virtual_ns += nanoseconds
            return False
        self.wake_ns = monotonic_ns() + nanoseconds
        return True

    def _only_in_cell(self) -> None:
        if not self._in_cell:
            raise BoundaryViolation("the guest called the host outside a cell")

    def _cap(self, stream: int) -> int:
        match stream:
            case 1:
                return self._cell.stdout_bytes_max
            case 2:
                return self._cell.stderr_bytes_max
            case 3 | 6:
                return self._cell.result_bytes_max
            case 4 | 5:
                return CONTROL_STREAM_BYTES_MAX
        raise BoundaryViolation(f"the guest wrote to stream {stream}")
