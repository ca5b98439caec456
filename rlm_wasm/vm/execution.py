"""One operation in a guest, a cell or the loading of an input: its calls, slice by slice, under its limits.

Made anew for each operation, so that nothing of one is there in the next.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from time import monotonic_ns
from typing import Final, TypeVar

import wasmtime

from rlm_wasm.errors import (
    CellCancelled,
    DeadlineExceeded,
    FuelExhausted,
    GuestError,
    GuestTrap,
    InternalError,
)
from rlm_wasm.limits import CellLimits
from rlm_wasm.protocol.cell import CANCEL_GRACE_NS
from rlm_wasm.protocol.commands import InputWanted, Requested
from rlm_wasm.protocol.guest_facts import GuestFacts
from rlm_wasm.protocol.input_reads import InputAsked, InputPart
from rlm_wasm.vm import traps
from rlm_wasm.vm.call import Call
from rlm_wasm.vm.import_handler import OperationImports
from rlm_wasm.vm.instance import SLICE_FUEL, Instance
from rlm_wasm.vm.interrupt import Interrupt, Reason
from rlm_wasm.vm.soft_limits import SoftLimits, slice_fuel
from rlm_wasm.vm.steps import FUEL_NEEDED, SLICE, Sleep, Step
from rlm_wasm.vm.upkeep import Upkeep

# What a step takes beside the guest, and how much longer than it asks for a guest sleeps, at most. Both count
# towards its deadline: one that steps all the time would else be waited for ten times as long as it may run.
_STEP_NS: Final = 50_000
_OVERSLEEP_NS: Final = 1_000_000
# Of what the engine says of a failure.
_WORDS_MAX: Final = 300
_T = TypeVar("_T")
Operation = Generator[Step, bytes | InputPart | None, _T]


class Execution:
    """Drives the calls of one operation. `soft` are the limits it is warned at; None: it is not warned.

    One that `refuels` is asked about at its soft limit of fuel first: `refuel` may move that further.
    """

    __slots__ = (
        "_beside_ns",
        "_cancel_by_ns",
        "_facts",
        "_instance",
        "_interrupt",
        "_limits",
        "_looked_ns",
        "_refuels",
        "_soft_limits",
        "cancel_wanted",
        "exchange",
        "executed_ns",
        "fault",
        "fuel_wanted",
        "soft",
    )

    def __init__(
        self,
        instance: Instance,
        facts: GuestFacts,
        interrupt: Interrupt,
        exchange: OperationImports,
        limits: CellLimits,
        soft_limits: SoftLimits | None,
        *,
        began_ns: int,
        refuels: bool = False,
    ) -> None:
        self._instance: Final = instance
        self._facts: Final = facts
        self._interrupt: Final = interrupt
        self._limits: Final = limits
        self._soft_limits = soft_limits
        self._refuels = refuels
        self.fuel_wanted = False
        self._cancel_by_ns: int | None = None
        self._beside_ns = 0
        # A look at who has the signals of a trap came with its beginning.
        self._looked_ns = began_ns
        self.exchange: Final = exchange
        # Why the host ended it, and why it was asked to end.
        self.fault: GuestError | None = None
        self.soft: GuestError | None = None
        self.cancel_wanted = False
        # Time its fiber ran; waits for the host and sleeps are not in it.
        self.executed_ns = 0
        instance.set_slice_fuel(slice_fuel(limits.fuel_max, SLICE_FUEL))
        instance.set_fuel(limits.fuel_max)

    def owe(self, upkeep: Upkeep) -> None:
        """Take what was done for this operation before it began on its account."""
        self.executed_ns += upkeep.executed_ns
        self.cancel_wanted = self.cancel_wanted or upkeep.cancel_wanted
        self.exchange.charge(upkeep.fuel)

    def invoke(self, name: str, arguments: tuple[int, ...], results_n: int) -> Operation[int]:
        """Call an export of the guest and return its result.

        Raises:
            GuestError: the call trapped, or a limit ended it.
        """
        exchange = self.exchange
        memory = self._instance.memory
        call = self._instance.begin(exchange, name, arguments, results_n)
        try:
            while True:
                while memory.wants_growth_populated:
                    yield from self._populate_growth()
                ended = self._poll(call)
                if exchange.wrote:
                    yield exchange.wrote.take()
                if ended:
                    break
                # Before anything else: a guest that only asks or sleeps gets no slice, and no more time.
                self._beside_ns += _STEP_NS if exchange.wake_ns is None else _OVERSLEEP_NS
                self._check_limits()
                while self.fuel_wanted:
                    yield FUEL_NEEDED
                    self._check_limits()
                request = exchange.take_request()
                if isinstance(request, InputAsked):
                    part = yield InputWanted(request)
                    if not isinstance(part, InputPart):
                        raise InternalError("a session that waits for an input was resumed without it")
                    exchange.give(part)
                    if self.cancel_wanted:
                        self._check_limits()
                elif request is not None:
                    response = yield Requested(request)
                    # Written inside a callback of wasmtime, where an error of ours would end the process.
                    if type(response) is not bytes:
                        raise InternalError("a session that waits for a response was resumed without one")
                    exchange.answer(response)
                    if self.cancel_wanted:
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
            self.fault = CellCancelled("the cell was cancelled")
            raise
        finally:
            call.close()

    def _poll(self, call: Call) -> bool:
        exchange = self.exchange
        exchange.gave_way = exchange.must_stop = False
        began = exchange.slice_began_ns = monotonic_ns()
        if began - self._looked_ns > traps.LOOK_NS:
            # It may have waited for long, and the process is the application's.
            self._looked_ns = began
            traps.require_handlers()
        done = call.poll()
        self.executed_ns += monotonic_ns() - began
        return done

    def _populate_growth(self) -> Operation[None]:
        """Clear a piece of what the memory grew by, on the cell's time, and give the others their turn.

        The guest has paid for it when it grew. Left to its page faults, a slice of little fuel could take
        as long as a memory is large.
        """
        began = monotonic_ns()
        self._instance.memory.populate_growth()
        self.executed_ns += monotonic_ns() - began
        self._check_limits()
        yield SLICE

    def _check_limits(self) -> None:
        """Interrupt the guest at a soft limit; raise at a hard one. Called while its fiber is suspended."""
        had_ns = self.executed_ns + self._beside_ns
        if had_ns > self._limits.wall_ms_max * 1_000_000:
            most = self._limits.wall_ms_max
            raise DeadlineExceeded(f"the cell ran longer than {most} ms", limit=most)
        if self._cancel_by_ns is not None and had_ns > self._cancel_by_ns:
            raise CellCancelled("the cell was cancelled")
        if self._soft_limits is None:
            return
        if self.soft is not None:
            if self.cancel_wanted and self._cancel_by_ns is None:
                self._cancel_by_ns = had_ns + CANCEL_GRACE_NS
            self._interrupt.repeat(self._instance.memory)
            return
        exchange = self.exchange
        if exchange.dropped_bytes:
            self._interrupt_for(Reason.OUTPUT, exchange.output_exceeded())
            return
        if exchange.flooded:
            self._interrupt_for(Reason.REQUESTS, exchange.asked_too_often())
            return
        if exchange.overslept:
            self._interrupt_for(Reason.DEADLINE, exchange.slept_too_long())
            return
        waits = exchange.request is not None or exchange.wake_ns is not None
        by_fuel = exchange.fuel_low or not (waits or exchange.gave_way)
        if self.fuel_wanted:
            raise InternalError("a cell that waits for fuel was resumed without a word about it")
        reached = self._soft_limits.reached(
            fuel_used=exchange.fuel_used() if by_fuel else None,
            executed_ns=had_ns,
            cancelled=self.cancel_wanted,
        )
        if reached is None:
            return
        if reached[0] is Reason.FUEL and self._refuels:
            self.fuel_wanted = True
        else:
            self._interrupt_for(*reached)

    def refuel(self, fuel: int) -> None:
        """Go on with so much more fuel, or with 0 to the end of what there is. Called at FUEL_NEEDED."""
        if not self.fuel_wanted or self._soft_limits is None or fuel < 0:
            raise InternalError("fuel for a cell that did not ask for it")
        self.fuel_wanted = False
        if not fuel:
            self._refuels = False
            return
        granted = self.exchange.fuel_granted + fuel
        self._soft_limits = SoftLimits.of(replace(self._limits, fuel_max=granted))
        self.exchange.refuel(fuel, self._soft_limits.fuel_kept)

    def _interrupt_for(self, reason: Reason, error: GuestError) -> None:
        self.soft = error
        self._interrupt.request(self._instance.memory, reason)
        if reason is Reason.CANCELLED:
            self._cancel_by_ns = self.executed_ns + self._beside_ns + CANCEL_GRACE_NS

    def _explain(self, reason: wasmtime.Trap | wasmtime.WasmtimeError) -> GuestError:
        if self.exchange.fault is not None:
            return self.exchange.fault
        if isinstance(reason, wasmtime.WasmtimeError):
            # No instruction of the guest's: the kernel gives no stack or no page for it, as a rule.
            words = " ".join(str(reason).split())
            return GuestTrap(f"the engine could not run the guest: {words[:_WORDS_MAX]}")
        code = reason.trap_code
        if code is wasmtime.TrapCode.OUT_OF_FUEL:
            granted = self.exchange.fuel_granted
            return FuelExhausted(f"the cell used all of its {granted} fuel", limit=granted)
        if code is wasmtime.TrapCode.STACK_OVERFLOW:
            return GuestTrap("the guest's stack overflowed")
        status = int.from_bytes(
            self._instance.memory.read(self._facts.exit_status, 4, length_max=4), "little", signed=True
        )
        if status >= 0:
            return GuestTrap(f"the guest's process exited with status {status & 0xFF}")
        return GuestTrap(f"the guest trapped: {code.name.lower() if code else 'unknown'}")
