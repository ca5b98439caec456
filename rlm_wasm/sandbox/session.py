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
from time import monotonic_ns
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
    UsageError,
)
from rlm_wasm.image.artifact import GuestFacts
from rlm_wasm.sandbox.call import Call
from rlm_wasm.sandbox.exchange import ERROR, REPORT, RESULT, STDERR, STDOUT, Exchange
from rlm_wasm.sandbox.instance import SLICE_FUEL, Instance, Program
from rlm_wasm.sandbox.interrupt import Interrupt, Reason
from rlm_wasm.sandbox.snapshot import Snapshot, take
from rlm_wasm.sandbox.soft_limits import CANCEL_GRACE_NS, SoftLimits, slice_fuel
from rlm_wasm.sandbox.steps import SLICE, CellEnd, HostRequest, Sleep, Step
from rlm_wasm.sandbox.text import LaidOut, chunks, encoding_of, plain

SEED_BYTES: Final = 32
_RESEED, _REPORT_VARIABLES = 1, 2
# Loading an input is charged and bounded like a cell; finalisers of earlier cells may run in it.
SETUP_FUEL: Final = 2_000_000_000
SETUP_WALL_NS: Final = 10_000_000_000

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
        self._origin = None if start is None else start.as_origin()
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
        self._interrupt = Interrupt(facts)
        self._cancel_wanted = False
        # One operation's state; `_start` makes all of it anew.
        self._cell: CellLimits = _SETUP_LIMITS
        self._exchange: Exchange = self._new_exchange(in_cell=False)
        self._fault: GuestError | None = None
        self._soft: GuestError | None = None
        self._soft_limits: SoftLimits | None = None
        self._executed_ns = 0
        self._cancel_by_ns: int | None = None

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
        if not isinstance(cell.source, str):
            raise UsageError(f"a cell is a str, not a {type(cell.source).__name__}")
        source = cell.source.encode("utf-8", "replace")
        if len(source) > cell.limits.source_bytes_max:
            raise UsageError(
                f"the cell has {len(source)} bytes; cell.source_bytes_max is {cell.limits.source_bytes_max}"
            )
        self._start(cell.limits, in_cell=True)
        self._interrupt.clear(self._memory)
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
        streams = {number: bytes(data) for number, data in self._exchange.streams.items()}
        return CellEnd(
            raised=status == 1 and self._fault is None,
            fault=self._fault,
            soft=self._soft,
            output_cut=self._exchange.dropped_bytes > 0,
            stdout=streams.get(STDOUT, b""),
            stderr=streams.get(STDERR, b""),
            result=streams.get(RESULT),
            error=streams.get(ERROR),
            report=streams.get(REPORT),
            fuel_used=fuel_used,
            memory_bytes=self._memory.size,
            executed_ns=self._executed_ns,
        )

    def load(self, name: str, value: str | bytes | LaidOut) -> Operation[None]:
        """Bind `value` to `name` in the guest, copying it once, straight into the guest's own object.

        Raises:
            UsageError: the name is no identifier, or the value is larger than the policy allows.
            MemoryExceeded: the guest has no room for it.
            GuestError: the guest failed otherwise; the session is lost.
        """
        if isinstance(value, LaidOut):
            key, encoding, is_text = name.encode(), value.encoding, value.is_text
        else:
            key, value = plain(name, value)
            encoding, is_text = encoding_of(value), isinstance(value, str)
        size = len(value) * encoding.bytes_per_unit
        if size > self._limits.context_bytes_max:
            raise UsageError(
                f"{name} takes {size} bytes in the guest; "
                f"sandbox.context_bytes_max is {self._limits.context_bytes_max}"
            )
        self._start(_SETUP_LIMITS, in_cell=False)
        lost = True
        try:
            if is_text:
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
            seeded=self._seeded,
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
        # Before its first cell the guest's `random` is that of the image, the same in every session.
        self._seeded = snapshot.seeded
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
        self._origin = snapshot.as_origin()

    def interrupt(self) -> None:
        """Ask the cell to end: it gets an exception it can unwind from, and is stopped if it does not.

        The session lives if the guest unwinds. Without a cell in progress this does nothing.
        """
        self._cancel_wanted = self._busy

    def close(self) -> None:
        """Free everything. An operation in progress must have been closed before. Safe to call again."""
        self._lost = self._closed = True
        self._instance.close()
        self._origin = None  # its memory file may be the last thing that holds a large image

    # -- driving one call ---------------------------------------------------------------------------

    def _require_idle(self) -> None:
        if self._lost or self._busy:
            raise UsageError("the session is lost" if self._lost else "the session is busy")

    def _new_exchange(self, *, in_cell: bool) -> Exchange:
        return Exchange(
            self._instance,
            self._cell,
            self._limits,
            self._boundary,
            self._entropy,
            in_cell=in_cell,
            virtual_ns=self._virtual_ns,
            fuel_low_from=self._cell.fuel_max - SoftLimits.of(self._cell).fuel if in_cell else -1,
        )

    def _start(self, limits: CellLimits, *, in_cell: bool) -> None:
        self._require_idle()
        self._busy = True
        self._cancel_wanted = False
        self._cell = limits
        self._exchange = self._new_exchange(in_cell=in_cell)
        self._fault = self._soft = None
        self._soft_limits = SoftLimits.of(limits) if in_cell else None
        self._cancel_by_ns = None
        self._executed_ns = 0
        self._instance.set_slice_fuel(slice_fuel(limits.fuel_max, SLICE_FUEL))
        self._instance.set_fuel(limits.fuel_max)

    def _finish(self, *, lost: bool) -> int:
        """End the operation; return the fuel it used. A lost session is freed at once."""
        used = self._exchange.fuel_used()
        self._virtual_ns = self._exchange.virtual_now_ns()
        self._busy = False
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
        exchange = self._exchange
        call = self._instance.begin(exchange, name, arguments, results_n)
        try:
            while not self._poll(call):
                # Before anything else: a guest that only asks or sleeps gets no slice, and no more time.
                self._check_limits()
                if (frame := exchange.take_request()) is not None:
                    response = yield HostRequest(frame)
                    # Written inside a callback of wasmtime, where an error of ours would end the process.
                    if type(response) is not bytes:
                        raise InternalError("a session that waits for a response was resumed without one")
                    exchange.answer(response)
                    if self._cancel_wanted:
                        # Before the guest goes on with the response.
                        self._check_limits()
                elif exchange.wake_ns is not None:
                    yield Sleep(exchange.wake_ns)
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
        exchange = self._exchange
        exchange.gave_way = exchange.must_stop = False
        began = exchange.slice_began_ns = monotonic_ns()
        done = call.poll()
        self._executed_ns += monotonic_ns() - began
        return done

    def _check_limits(self) -> None:
        """Interrupt the guest at a soft limit; raise at a hard one. Called while its fiber is suspended."""
        if self._executed_ns > self._cell.wall_ms_max * 1_000_000:
            raise DeadlineExceeded(f"the cell ran longer than {self._cell.wall_ms_max} ms")
        if self._cancel_by_ns is not None and self._executed_ns > self._cancel_by_ns:
            raise CellCancelled("the cell was cancelled")
        if self._soft_limits is None:
            return
        if self._soft is not None:
            self._interrupt.repeat(self._memory)
            return
        exchange = self._exchange
        if exchange.dropped_bytes:
            self._interrupt_for(Reason.OUTPUT, exchange.output_exceeded())
            return
        waits = exchange.request is not None or exchange.wake_ns is not None
        by_fuel = exchange.fuel_low or not (waits or exchange.gave_way)
        reached = self._soft_limits.reached(
            fuel_used=exchange.fuel_used() if by_fuel else None,
            executed_ns=self._executed_ns,
            cancelled=self._cancel_wanted,
        )
        if reached is not None:
            self._interrupt_for(*reached)

    def _interrupt_for(self, reason: Reason, error: GuestError) -> None:
        self._soft = error
        self._interrupt.request(self._memory, reason)
        if reason is Reason.CANCELLED:
            self._cancel_by_ns = self._executed_ns + CANCEL_GRACE_NS

    def _explain(self, reason: wasmtime.Trap | wasmtime.WasmtimeError) -> GuestError:
        if self._exchange.fault is not None:
            return self._exchange.fault
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
