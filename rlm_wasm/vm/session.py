"""A session: one guest with its variables. Cells run in it one after another; state stays between.

A session does not run itself: each operation is a generator that yields a `Step` whenever the
guest has used its slice or waits, so that one thread can drive many sessions fairly. Send the
response (bytes) into the generator after a `Requested`, None after anything else. Close the
generator to cancel.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, TypeVar

from rlm_wasm.errors import (
    GuestError,
    GuestTrap,
    HostExhausted,
    MemoryExceeded,
    UsageError,
)
from rlm_wasm.limits import BoundaryLimits, CellLimits, SessionLimits
from rlm_wasm.protocol.cell import Cell, setup_limits
from rlm_wasm.protocol.guest_facts import GuestFacts
from rlm_wasm.protocol.input_value import HeldInput, Input
from rlm_wasm.protocol.pending_output import PendingOutput
from rlm_wasm.protocol.text_layout import LaidOut, chunks
from rlm_wasm.vm import traps
from rlm_wasm.vm.drive import drive
from rlm_wasm.vm.execution import Execution, Operation
from rlm_wasm.vm.import_handler import ERROR, REPORT, RESULT, STDERR, STDOUT, VALUE, OperationImports
from rlm_wasm.vm.instance import Instance, Program
from rlm_wasm.vm.interrupt import Interrupt
from rlm_wasm.vm.snapshot import Ground, Layer, MemorySnapshot, move_everything, take
from rlm_wasm.vm.soft_limits import SoftLimits
from rlm_wasm.vm.steps import SLICE, CellEnd, CellProgress
from rlm_wasm.vm.upkeep import Steps, Upkeep

__all__ = ["Operation", "Session", "drive"]

_T = TypeVar("_T")
SEED_BYTES: Final = 32
_RESEED, _VARIABLES, _VALUE = 1, 2, 4
_FILES_LIMITS: Final = struct.Struct("<2I")
# No input has a name with a colon: this one says that the next cell is live.
_LIVE_MARK: Final = b"live:"
_PROGRESS: Final = tuple(CellProgress)


class Session:
    """One guest over an image. Not thread-safe; the thread that made it drives and closes it.

    `entropy(n)` returns n random bytes: fresh, or from a seeded stream for a deterministic run. `prepared`
    is an instance over the base image in which nothing has run yet, from a `WarmPool`; the session owns it.

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
        start: MemorySnapshot | None = None,
        prepared: Instance | None = None,
    ) -> None:
        self._program = program
        self._facts = facts
        self._limits = limits
        self._boundary = boundary
        self._entropy = entropy
        cap = limits.memory_bytes_max
        # What this session's pages are compared with when a snapshot is taken.
        self._ground = Ground(None if start is None else start.as_origin())
        if start is not None:
            self._instance = start.fork(memory_bytes_max=cap)
        elif prepared is not None:
            self._instance = _adopted(prepared, cap)
        else:
            self._instance = Instance(program, memory_bytes_max=cap)
        self._memory = self._instance.memory
        # A fork gets fresh entropy in its first cell, like a new session.
        self._seeded = False
        self._lost = False
        self._closed = False
        # Nothing ran in it yet: its state is that of its origin.
        self._fresh = True
        self._virtual_ns = 0 if start is None else start.virtual_ns
        self._interrupt = Interrupt(facts)
        # What the session is doing now, if anything.
        self._execution: Execution | Upkeep | None = None

    # -- what an owner can do ---------------------------------------------------------------------

    @property
    def lost(self) -> bool:
        """Whether a limit, a trap or a cancellation ended the session; it only takes `close` then."""
        return self._lost

    @property
    def memory_bytes(self) -> int:
        """The size of guest memory; it never shrinks, so it is also the peak."""
        return self._memory.size

    @property
    def memory_bytes_max(self) -> int:
        """What the policy gives its memory."""
        return self._limits.memory_bytes_max

    def run(self, cell: Cell, *, after: Upkeep | None = None) -> Operation[CellEnd]:
        """Run one cell and return what it left. Faults of the guest are in the result, not raised.

        `after` is what was done for it already: it is on the cell's account.

        Raises:
            UsageError: the source is longer than the policy allows, or the session is lost or busy.
        """
        source = cell.encoded()
        execution = self._start(cell.limits, in_cell=True, refuels=cell.refuels)
        self._interrupt.clear(self._memory)
        if after is not None:
            execution.owe(after)
        status: int | None = None
        try:
            pointer = self._facts.inbox
            if len(source) > self._facts.inbox_bytes:
                pointer = yield from self._allocate(execution, len(source))
            if cell.live:
                yield from self._ask_for_lines(execution)
            self._memory.write(pointer, source)
            flags = _VARIABLES * cell.report_variables | _VALUE * cell.report_value
            if not self._seeded:
                # The top bit is set, so that the guest's seeding takes the same steps for every seed.
                seed = bytearray(self._entropy(SEED_BYTES))
                seed[-1] |= 0x80
                self._memory.write(self._facts.seed, bytes(seed))
                self._allow_files()
                self._seeded = True
                flags |= _RESEED
            returned = yield from execution.invoke("rlm_exec", (pointer, len(source), flags), 1)
            if left := (returned & 0xFFFF_FFFF) >> 8:
                execution.exchange.collect(self._facts.inbox, left)
            status = returned & 0xFF
            if pointer != self._facts.inbox:
                yield from execution.invoke("rlm_free", (pointer,), 0)
            if status not in (0, 1):
                raise GuestTrap("the guest's REPL is broken")
        except GuestError as error:
            execution.fault = error
        finally:
            progress = self._progress()
            fuel_used = self._finish(execution, lost=execution.fault is not None or status is None)
        streams = {number: bytes(data) for number, data in execution.exchange.streams.items()}
        return CellEnd(
            raised=status == 1 and execution.fault is None,
            fault=execution.fault,
            soft=execution.soft,
            output_cut=execution.exchange.dropped_bytes > 0,
            stdout=streams.get(STDOUT, b""),
            stderr=streams.get(STDERR, b""),
            result=streams.get(RESULT),
            error=streams.get(ERROR),
            report=streams.get(REPORT),
            fuel_used=fuel_used,
            memory_bytes=self._memory.size,
            executed_ns=execution.executed_ns,
            progress=progress,
            value=streams.get(VALUE) if cell.report_value else None,
            value_bytes=execution.exchange.value_bytes if cell.report_value else 0,
        )

    def load(self, name: str, value: str | bytes | LaidOut, held: HeldInput | None = None) -> Operation[None]:
        """Bind `value` to `name` in the guest, copying it once, straight into the guest's own object.

        One that is `held` by the host is a file of the guest's, too; of a lazy one there is no other value.

        Raises:
            UsageError: the name is no identifier, or the value is larger than the policy allows.
            MemoryExceeded: the guest has no room for it.
            GuestError: the guest failed otherwise; the session is lost.
        """
        wanted = Input.of(name, value, size_max=self._limits.context_bytes_max, held=held)
        execution = self._start(setup_limits(wanted.size if wanted.is_json else 0), in_cell=False)
        lost = True
        try:
            if wanted.is_text:
                pointer = yield from execution.invoke(
                    "rlm_str_new", (len(wanted.value), wanted.encoding.max_char), 1
                )
            else:
                pointer = yield from execution.invoke("rlm_bytes_new", (len(wanted.value),), 1)
            if pointer == 0:
                lost = False
                raise MemoryExceeded(
                    f"the guest has no room for {name} ({wanted.size} bytes); "
                    f"sandbox.memory_bytes_max is {self._limits.memory_bytes_max}",
                    limit=self._limits.memory_bytes_max,
                )
            pointer = self._memory.check(pointer, wanted.size, length_max=wanted.size)
            for address, length, keep in chunks(wanted.value, wanted.encoding):
                self._memory.write_from(pointer, address, length)
                pointer += length
                del keep
                yield SLICE
            if held is not None and held.folder:
                self._allow_files()  # before the first cell there may be a few only
            self._memory.write(self._facts.inbox, wanted.key)
            bound = (yield from execution.invoke("rlm_commit", (len(wanted.key),), 1)) == 0
            lost = not (bound or wanted.is_json)
            if not bound:
                raise (
                    MemoryExceeded(f"the guest has no room for the value of {name}")
                    if wanted.is_json
                    else GuestTrap(f"the guest could not bind {name}")
                )
        finally:
            self._finish(execution, lost=lost)

    def _allow_files(self) -> None:
        """Tell the guest how many files and bytes of them its policy allows."""
        files = _FILES_LIMITS.pack(self._limits.files_bytes_max, self._limits.files_max)
        self._memory.write(self._facts.files_limits, files)

    def snapshot(
        self, *, bytes_max: int | None = None, upkeep: Upkeep | None = None
    ) -> Operation[MemorySnapshot | None]:
        """Return the state between two cells: the pages written since the session's origin.

        None if they take more than `bytes_max`. `upkeep` is told what it costs, and may end it.

        Raises:
            UsageError: the session is lost or busy.
            CellCancelled, DeadlineExceeded: it was ended; the session is as it was.
        """
        self._require_idle()
        if self._fresh:
            return self._as_it_is(Layer(()))
        work = upkeep or Upkeep()
        work.charge_for(self._memory.size)
        return (
            yield from self._keep_up(
                work,
                take(
                    self._instance,
                    self._program,
                    self._ground,
                    stack=self._facts.stack_pointer,
                    virtual_ns=self._virtual_ns,
                    seeded=self._seeded,
                    bytes_max=self._limits.memory_bytes_max if bytes_max is None else bytes_max,
                ),
            )
        )

    def restore(self, snapshot: MemorySnapshot) -> None:
        """Go back to a snapshot of this session, lost or not; its variables are what they were then."""
        if self._execution is not None or self._closed:
            raise UsageError("the session is closed" if self._closed else "the session is busy")
        if snapshot.origin is not self._ground.origin:
            raise UsageError("a session goes back only to a snapshot of its own")
        instance = snapshot.restore(memory_bytes_max=self._limits.memory_bytes_max)
        self._instance.close()
        self._instance = instance
        self._memory = instance.memory
        self._ground.overlays = snapshot.overlays
        self._interrupt.memory_changed()
        self._virtual_ns = snapshot.virtual_ns
        # Before its first cell the guest's `random` is that of the image, the same in every session.
        self._seeded = snapshot.seeded
        self._lost = False

    def rebase(self) -> Operation[None]:
        """Make the present state the session's origin, so that later snapshots hold only what comes after.

        Worth its one copy of what was written after large inputs have been loaded. Where the machine has no
        room for it, the origin stays what it was.

        Raises:
            UsageError: the session is lost or busy.
        """
        self._require_idle()
        if not (yield from self._keep_up(Upkeep(), move_everything(self._instance, self._ground))):
            return
        self._ground = Ground(self._as_it_is(Layer(())).rebased())

    def interrupt(self) -> None:
        """Ask the cell to end: it gets an exception it can unwind from, and is stopped if it does not.

        The session lives if the guest unwinds. Without a cell in progress this does nothing.
        """
        if self._execution is not None:
            self._execution.cancel_wanted = True

    def refuel(self, fuel: int) -> None:
        """Let the cell that said `FuelLow` use so much more; 0: it has to end with what it has."""
        if isinstance(self._execution, Execution):
            self._execution.refuel(fuel)

    def lose(self) -> None:
        """End a guest that is of no use any more; the session can still go back to a snapshot."""
        self._require_idle()
        self._lost = True
        self._instance.close()

    def close(self) -> None:
        """Free everything. An operation in progress must have been closed before. Safe to call again."""
        self._lost = self._closed = True
        self._instance.close()
        self._ground = Ground(None)  # its memory files may be the last thing that holds a large image

    # -- one operation at a time ---------------------------------------------------------------------

    def _require_idle(self) -> None:
        if self._lost or self._execution is not None:
            raise UsageError("the session is lost" if self._lost else "the session is busy")

    def _as_it_is(self, layer: Layer) -> MemorySnapshot:
        """Return the present state, of which `layer` is what was not moved into files."""
        return MemorySnapshot(
            self._program,
            self._ground.origin,
            layer,
            self._memory.size,
            self._virtual_ns,
            seeded=self._seeded,
            overlays=self._ground.overlays,
        )

    def _keep_up(self, work: Upkeep, steps: Steps[_T]) -> Operation[_T]:
        self._execution = work
        try:
            return (yield from work.run(steps))
        except HostExhausted:
            # It may lack pages.
            self._lost = True
            self._instance.close()
            raise
        finally:
            self._execution = None

    def _start(self, limits: CellLimits, *, in_cell: bool, refuels: bool = False) -> Execution:
        """Begin an operation. Nothing of the one before is left in it."""
        self._require_idle()
        now_ns = traps.require()
        self._fresh = False
        soft_limits = SoftLimits.of(limits) if in_cell else None
        exchange = OperationImports(
            self._instance,
            limits,
            self._limits,
            self._boundary,
            self._entropy,
            in_cell=in_cell,
            virtual_ns=self._virtual_ns,
            fuel_kept=-1 if soft_limits is None else soft_limits.fuel_kept,
        )
        self._execution = execution = Execution(
            self._instance,
            self._facts,
            self._interrupt,
            exchange,
            limits,
            soft_limits,
            began_ns=now_ns,
            refuels=refuels,
        )
        return execution

    def _finish(self, execution: Execution, *, lost: bool) -> int:
        """End the operation; return the fuel it used. A lost session is freed at once."""
        used = execution.exchange.fuel_used()
        self._virtual_ns = execution.exchange.virtual_at_ns(used)
        self._execution = None
        if lost:
            # The store is freed at once; the session can still go back to a snapshot.
            self._lost = True
            self._instance.close()
        else:
            self._instance.verify_memory()
        return used

    def _progress(self) -> CellProgress:
        """Return how far the guest says it came. Nonsense is no progress: it harms its own session only."""
        value = int.from_bytes(self._memory.read(self._facts.progress, 4, length_max=4), "little")
        return _PROGRESS[value] if value < len(_PROGRESS) else CellProgress.NOT_BEGUN

    def _ask_for_lines(self, execution: Execution) -> Operation[None]:
        """Have the next cell's output told, and written line by line; else much of it is told late."""
        execution.exchange.wrote = PendingOutput()
        if (yield from execution.invoke("rlm_bytes_new", (0,), 1)) != 0:
            self._memory.write(self._facts.inbox, _LIVE_MARK)
            yield from execution.invoke("rlm_commit", (len(_LIVE_MARK),), 1)

    def _allocate(self, execution: Execution, length: int) -> Operation[int]:
        pointer = yield from execution.invoke("rlm_alloc", (length,), 1)
        if pointer == 0:
            most = self._limits.memory_bytes_max
            raise MemoryExceeded(f"the guest has no room for a cell of {length} bytes", limit=most)
        return self._memory.check(pointer, length, length_max=length)


def _adopted(prepared: Instance, memory_bytes_max: int) -> Instance:
    try:
        prepared.set_memory_max(memory_bytes_max)
    except BaseException:
        prepared.close()
        raise
    return prepared
