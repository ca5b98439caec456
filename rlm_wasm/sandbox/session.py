"""A session: one guest with its variables. Cells run in it one after another; state stays between.

A session does not run itself: each operation is a generator that yields a `Step` whenever the
guest has used its slice or waits, so that one thread can drive many sessions fairly. Send the
response (bytes) into the generator after a `HostRequest`, None after anything else. Close the
generator to cancel.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Generator
from dataclasses import dataclass
from time import monotonic_ns, time_ns
from typing import Final, TypeVar

import wasmtime

from rlm_wasm.core.limits import BoundaryLimits, CellLimits, SessionLimits
from rlm_wasm.errors import (
    BoundaryViolation,
    CellCancelled,
    DeadlineExceeded,
    FuelExhausted,
    GuestError,
    GuestTrap,
    InternalError,
    MemoryExceeded,
    OutputExceeded,
    UsageError,
)
from rlm_wasm.image.artifact import GuestFacts
from rlm_wasm.sandbox.call import Call
from rlm_wasm.sandbox.imports import ENTROPY_BYTES_MAX
from rlm_wasm.sandbox.instance import Instance, Program
from rlm_wasm.sandbox.snapshot import Snapshot, take
from rlm_wasm.sandbox.steps import SLICE, CellEnd, HostRequest, Sleep, Step
from rlm_wasm.sandbox.text import chunks, encoding_of

STDOUT, STDERR, RESULT, ERROR, REPORT = 1, 2, 3, 4, 5
# The error and report documents are made by the guest's REPL, which bounds them well below this.
CONTROL_STREAM_BYTES_MAX: Final = 256 << 10
NAME_BYTES_MAX: Final = 256
FLOOD_FACTOR: Final = 4
SEED_BYTES: Final = 32
_RESEED, _REPORT_VARIABLES = 1, 2
# Loading an input is charged and bounded like a cell; finalisers of earlier cells may run in it.
SETUP_FUEL: Final = 2_000_000_000
SETUP_WALL_NS: Final = 10_000_000_000
# The virtual clock: starts at a fixed date, runs with fuel (12 fuel a nanosecond, the measured speed).
VIRTUAL_EPOCH_NS: Final = 1_700_000_000_000_000_000
FUEL_PER_VIRTUAL_NS: Final = 12

_T = TypeVar("_T")
Operation = Generator[Step, bytes | None, _T]


@dataclass(frozen=True, slots=True)
class Cell:
    """One execution: UTF-8 Python, its limits, and whether to report the variables afterwards."""

    source: str
    limits: CellLimits
    report_variables: bool = False


_SETUP_LIMITS = CellLimits(
    fuel_max=SETUP_FUEL,
    wall_ms_max=SETUP_WALL_NS // 1_000_000,
    stdout_bytes_max=0,
    stderr_bytes_max=0,
    result_bytes_max=0,
    source_bytes_max=0,
    requests_max=0,
    sleep_ms_max=0,
)


class Session:
    """One guest over an image. Not thread-safe; the thread that made it drives and closes it.

    `entropy(n)` returns n random bytes: fresh, or from a seeded stream for a deterministic run.

    Raises:
        PolicyError: the policy's memory cap is below the image.
    """

    def __init__(
        self,
        program: Program,
        facts: GuestFacts,
        limits: SessionLimits,
        boundary: BoundaryLimits,
        entropy: Callable[[int], bytes],
        *,
        start: Snapshot | None = None,
    ) -> None:
        self._program = program
        self._facts = facts
        self._limits = limits
        self._boundary = boundary
        self._entropy = entropy
        cap = limits.memory_bytes_max
        # What this session's pages are compared with when a snapshot is taken.
        self._origin = start
        self._instance = (
            Instance(program, memory_bytes_max=cap) if start is None else start.fork(memory_bytes_max=cap)
        )
        self._memory = self._instance.memory
        # A fork gets fresh entropy in its first cell, like a new session.
        self._seeded = False
        self._lost = False
        self._closed = False
        self._busy = False
        self._virtual_ns = 0 if start is None else start.virtual_ns
        # One operation's state; `_start` resets all of it.
        self.slice_began_ns = 0
        self._cell: CellLimits = _SETUP_LIMITS
        self._in_cell = False
        self._fault: GuestError | None = None
        self._fuel_given = 0
        self._request: bytes | None = None
        self._requests = 0
        self._response: bytes | None = None
        self._answered = False
        self._wake_ns: int | None = None
        self._slept_ns = 0
        self._streams: dict[int, bytearray] = {}
        self._executed_ns = 0

    # -- what an owner can do ---------------------------------------------------------------------

    @property
    def lost(self) -> bool:
        """Whether a limit, a trap or a cancellation ended the session; it only takes `close` then."""
        return self._lost

    @property
    def memory_bytes(self) -> int:
        """The size of guest memory; it never shrinks, so it is also the peak."""
        return self._memory.size

    def run(self, cell: Cell) -> Operation[CellEnd]:
        """Run one cell and return what it left. Faults of the guest are in the result, not raised.

        Raises:
            UsageError: the source is longer than the policy allows, or the session is lost or busy.
        """
        source = cell.source.encode("utf-8", "replace")
        if len(source) > cell.limits.source_bytes_max:
            raise UsageError(
                f"the cell has {len(source)} bytes; cell.source_bytes_max is {cell.limits.source_bytes_max}"
            )
        self._start(cell.limits, in_cell=True)
        status: int | None = None
        try:
            pointer = self._facts.inbox
            if len(source) > self._facts.inbox_bytes:
                pointer = yield from self._allocate(len(source))
            self._memory.write(pointer, source)
            flags = _REPORT_VARIABLES if cell.report_variables else 0
            if not self._seeded:
                # The top bit is set, so that the guest's seeding takes the same steps for every seed.
                seed = bytearray(self._entropy(SEED_BYTES))
                seed[-1] |= 0x80
                self._memory.write(self._facts.seed, bytes(seed))
                self._seeded = True
                flags |= _RESEED
            status = yield from self._invoke("rlm_exec", (pointer, len(source), flags), 1)
            if pointer != self._facts.inbox:
                yield from self._invoke("rlm_free", (pointer,), 0)
            if status not in (0, 1):
                raise GuestTrap("the guest's REPL is broken")
        except GuestError as error:
            self._fault = error
        finally:
            fuel_used = self._finish(lost=self._fault is not None or status is None)
        take = self._streams.get
        return CellEnd(
            raised=status == 1 and self._fault is None,
            fault=self._fault,
            stdout=bytes(take(STDOUT, b"")),
            stderr=bytes(take(STDERR, b"")),
            result=bytes(take(RESULT, b"")) if RESULT in self._streams else None,
            error=bytes(take(ERROR, b"")) if ERROR in self._streams else None,
            report=bytes(take(REPORT, b"")) if REPORT in self._streams else None,
            fuel_used=fuel_used,
            memory_bytes=self._memory.size,
            executed_ns=self._executed_ns,
        )

    def load(self, name: str, value: str | bytes) -> Operation[None]:
        """Bind `value` to `name` in the guest, copying it once, straight into the guest's own object.

        Raises:
            UsageError: the name is no identifier, or the value is larger than the policy allows.
            MemoryExceeded: the guest has no room for it.
            GuestError: the guest failed otherwise; the session is lost.
        """
        key = name.encode("utf-8", "replace")
        if not name.isidentifier() or len(key) > NAME_BYTES_MAX:
            raise UsageError(f"{name!a} is not a variable name of at most {NAME_BYTES_MAX} bytes")
        if not isinstance(value, str | bytes):
            raise UsageError(f"{name} is a {type(value).__name__}; give a str or bytes")
        encoding = encoding_of(value)
        size = len(value) * encoding.bytes_per_unit
        if size > self._limits.context_bytes_max:
            raise UsageError(
                f"{name} takes {size} bytes in the guest; "
                f"sandbox.context_bytes_max is {self._limits.context_bytes_max}"
            )
        self._start(_SETUP_LIMITS, in_cell=False)
        lost = True
        try:
            if isinstance(value, str):
                pointer = yield from self._invoke("rlm_str_new", (len(value), encoding.max_char), 1)
            else:
                pointer = yield from self._invoke("rlm_bytes_new", (len(value),), 1)
            if pointer == 0:
                lost = False
                raise MemoryExceeded(
                    f"the guest has no room for {name} ({size} bytes); "
                    f"sandbox.memory_bytes_max is {self._limits.memory_bytes_max}"
                )
            pointer = self._memory.check(pointer, size, length_max=size)
            for address, length, keep in chunks(value, encoding):
                self._memory.write_from(pointer, address, length)
                pointer += length
                del keep
                yield SLICE
            self._memory.write(self._facts.inbox, key)
            if (yield from self._invoke("rlm_commit", (len(key),), 1)) != 0:
                raise GuestTrap(f"the guest could not bind {name}")
            lost = False
        finally:
            self._finish(lost=lost)

    def snapshot(self, *, bytes_max: int | None = None) -> Snapshot | None:
        """Return the state between two cells: the pages written since the session's origin.

        None if they take more than `bytes_max`.

        Raises:
            UsageError: the session is lost or busy.
        """
        self._require_idle()
        return take(
            self._instance,
            self._program,
            self._origin,
            stack=self._facts.stack_pointer,
            virtual_ns=self._virtual_ns,
            bytes_max=self._limits.memory_bytes_max if bytes_max is None else bytes_max,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this session, lost or not; its variables are what they were then."""
        if self._busy or self._closed:
            raise UsageError("the session is closed" if self._closed else "the session is busy")
        if snapshot.origin is not self._origin:
            raise UsageError("a session goes back only to a snapshot of its own")
        instance = snapshot.restore(memory_bytes_max=self._limits.memory_bytes_max)
        self._instance.close()
        self._instance = instance
        self._memory = instance.memory
        self._virtual_ns = snapshot.virtual_ns
        self._lost = False

    def rebase(self) -> None:
        """Make the present state the session's origin, so that later snapshots hold only what comes after.

        Worth its one copy of the memory after large inputs have been loaded.
        """
        snapshot = self.snapshot()
        if snapshot is None:
            raise InternalError("a snapshot without a limit was refused")
        instance = snapshot.fork(memory_bytes_max=self._limits.memory_bytes_max)
        self._instance.close()
        self._instance = instance
        self._memory = instance.memory
        self._origin = snapshot

    def close(self) -> None:
        """Free everything. An operation in progress must have been closed before. Safe to call again."""
        self._lost = self._closed = True
        self._instance.close()
        self._origin = None  # its memory file may be the last thing that holds a large image

    # -- driving one call ---------------------------------------------------------------------------

    def _require_idle(self) -> None:
        if self._lost or self._busy:
            raise UsageError("the session is lost" if self._lost else "the session is busy")

    def _start(self, limits: CellLimits, *, in_cell: bool) -> None:
        self._require_idle()
        self._busy = True
        self._cell = limits
        self._in_cell = in_cell
        self._fault = None
        self._request = self._response = None
        self._requests = 0
        self._wake_ns = None
        self._slept_ns = 0
        self._streams = {}
        self._executed_ns = 0
        self._fuel_given = limits.fuel_max
        self._instance.set_fuel(limits.fuel_max)

    def _finish(self, *, lost: bool) -> int:
        """End the operation; return the fuel it used. A lost session is freed at once."""
        used = self._fuel_given - self._instance.fuel()
        self._virtual_ns += used // FUEL_PER_VIRTUAL_NS
        self._busy = False
        self._request = self._response = None
        if lost:
            # The store is freed at once; the session can still go back to a snapshot.
            self._lost = True
            self._instance.close()
        else:
            self._instance.verify_memory()
        return used

    def _allocate(self, length: int) -> Operation[int]:
        pointer = yield from self._invoke("rlm_alloc", (length,), 1)
        if pointer == 0:
            raise MemoryExceeded(f"the guest has no room for a cell of {length} bytes")
        return self._memory.check(pointer, length, length_max=length)

    def _invoke(self, name: str, arguments: tuple[int, ...], results_n: int) -> Operation[int]:
        call = self._instance.begin(self, name, arguments, results_n)
        try:
            while not self._poll(call):
                # Before anything else: a guest that only asks or sleeps gets no slice, and no more time.
                if self._executed_ns > self._cell.wall_ms_max * 1_000_000:
                    raise DeadlineExceeded(f"the cell ran longer than {self._cell.wall_ms_max} ms")
                if self._request is not None:
                    frame, self._request = self._request, None
                    response = yield HostRequest(frame)
                    if response is None:
                        raise InternalError("a session that waits for a response was resumed without one")
                    self._response = response
                    self._answered = True
                elif self._wake_ns is not None:
                    yield Sleep(self._wake_ns)
                else:
                    yield SLICE
            reason = call.take_trap()
            if reason is not None:
                raise self._explain(reason)
            return call.result
        except GeneratorExit:
            self._fault = CellCancelled("the cell was cancelled")
            raise
        finally:
            call.close()

    def _poll(self, call: Call) -> bool:
        began = self.slice_began_ns = monotonic_ns()
        done = call.poll()
        self._executed_ns += monotonic_ns() - began
        return done

    def _explain(self, reason: wasmtime.Trap | wasmtime.WasmtimeError) -> GuestError:
        if self._fault is not None:
            return self._fault
        code = reason.trap_code if isinstance(reason, wasmtime.Trap) else None
        if code is wasmtime.TrapCode.OUT_OF_FUEL:
            return FuelExhausted(f"the cell used all of its {self._cell.fuel_max} fuel")
        if code is wasmtime.TrapCode.STACK_OVERFLOW:
            return GuestTrap("the guest's stack overflowed")
        status = int.from_bytes(
            self._memory.read(self._facts.exit_status, 4, length_max=4), "little", signed=True
        )
        if status >= 0:
            return GuestTrap(f"the guest's process exited with status {status & 0xFF}")
        return GuestTrap(f"the guest trapped: {code.name.lower() if code else 'unknown'}")

    # -- the guest's six imports (ImportHandler) -------------------------------------------------------

    def charge(self, fuel: int) -> None:
        """Take fuel for host work."""
        self._instance.set_fuel(max(self._instance.fuel() - fuel, 0))

    def refuse(self, error: GuestError) -> None:
        """Keep the first reason why this call traps."""
        if self._fault is None:
            self._fault = error

    def _only_in_cell(self) -> None:
        if not self._in_cell:
            raise BoundaryViolation("the guest called the host outside a cell")

    def on_call(self, pointer: int, length: int) -> None:
        """Copy the request; the fiber waits until the owner answers."""
        self._only_in_cell()
        self._requests += 1
        # The host denies what goes beyond requests_max with an exception the guest can handle. Far
        # beyond it nobody is listening any more, and every denial costs the host real work.
        if self._requests > FLOOD_FACTOR * self._cell.requests_max:
            raise BoundaryViolation(f"{self._requests} requests where {self._cell.requests_max} are allowed")
        self._request = self._memory.read(pointer, length, length_max=self._boundary.frame_bytes_max)
        self._response = None
        self._answered = False

    def wait_result(self) -> int | None:
        """The response's length once it is there; 0 once a sleep is over."""
        if self._wake_ns is not None:
            if monotonic_ns() < self._wake_ns:
                return None
            self._wake_ns = None
            return 0
        if not self._answered or self._response is None:
            return None
        return len(self._response)

    def on_take(self, pointer: int, capacity: int) -> int:
        """Write the response where the guest wants it, once."""
        self._only_in_cell()
        response, self._response = self._response, None
        if response is None or capacity < len(response):
            raise BoundaryViolation("the guest took a response that is not there, or too large for it")
        self._memory.write(pointer, response)
        return len(response)

    def on_emit(self, stream: int, pointer: int, length: int) -> int:
        """Append to a stream, up to its cap."""
        self._only_in_cell()
        cap = {
            STDOUT: self._cell.stdout_bytes_max,
            STDERR: self._cell.stderr_bytes_max,
            RESULT: self._cell.result_bytes_max,
            ERROR: CONTROL_STREAM_BYTES_MAX,
            REPORT: CONTROL_STREAM_BYTES_MAX,
        }.get(stream)
        if cap is None:
            raise BoundaryViolation(f"the guest wrote to stream {stream}")
        buffer = self._streams.setdefault(stream, bytearray())
        room = cap - len(buffer)
        wanted = length & 0xFFFF_FFFF
        self._memory.check(pointer, length, length_max=self._limits.memory_bytes_max)
        if room > 0:
            part = min(room, wanted)
            buffer += self._memory.read(pointer, part, length_max=part)
        if wanted > room and stream != RESULT:
            if stream in (STDOUT, STDERR):
                raise OutputExceeded(
                    f"the cell wrote more than {cap} bytes to {('stdout', 'stderr')[stream - 1]}"
                )
            raise BoundaryViolation(f"more than {cap} bytes on stream {stream}")
        return 0

    def on_clock(self, clock_id: int) -> int:
        """Nanoseconds: of the virtual clock, or of the host's if the policy grants it."""
        self._only_in_cell()
        if self._limits.clock == "real":
            return time_ns() if clock_id == 0 else monotonic_ns()
        used = self._fuel_given - self._instance.fuel()
        now = self._virtual_ns + used // FUEL_PER_VIRTUAL_NS
        return now + (VIRTUAL_EPOCH_NS if clock_id == 0 else 0)

    def on_entropy(self, pointer: int, length: int) -> int:
        """Write random bytes of this session's stream."""
        self._only_in_cell()
        self._memory.check(pointer, length, length_max=ENTROPY_BYTES_MAX)
        self._memory.write(pointer, self._entropy(length))
        return 0

    def on_sleep(self, nanoseconds: int) -> bool:
        """Start a sleep. On the virtual clock it is over at once, and the clock has moved."""
        self._only_in_cell()
        allowed = self._cell.sleep_ms_max * 1_000_000 - self._slept_ns
        if nanoseconds < 0 or nanoseconds > allowed:
            raise DeadlineExceeded(f"the cell slept longer than {self._cell.sleep_ms_max} ms")
        self._slept_ns += nanoseconds
        if self._limits.clock == "virtual":
            self._virtual_ns += nanoseconds
            return False
        self._wake_ns = monotonic_ns() + nanoseconds
        return True


def drive(operation: Operation[_T], answer: Callable[[bytes], bytes] | None = None) -> _T:
    """Run an operation to its end on this thread, answering its requests with `answer`.

    For one session at a time: benchmarks, `prepare`, tests. A loop over many uses the generator.
    """
    response: bytes | None = None
    try:
        while True:
            step = operation.send(response)
            response = None
            if isinstance(step, HostRequest):
                if answer is None:
                    raise BoundaryViolation("the guest asked the host where nobody answers")
                response = answer(step.frame)
            elif isinstance(step, Sleep):
                select.select([], [], [], max(0, step.until_ns - monotonic_ns()) / 1e9)
    except StopIteration as stop:
        value: _T = stop.value
        return value
    finally:
        operation.close()
