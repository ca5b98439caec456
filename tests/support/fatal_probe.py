"""Run in a process of its own: break one callback of the sandbox as the argument says, and go on.

Prints "survived" if the process lived to the end of it; it must not.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any, NoReturn

from rlm_wasm.protocol.cell import Cell
from rlm_wasm.vm import linear_unsafe
from rlm_wasm.vm.import_handler import OperationImports
from rlm_wasm.vm.session import drive
from tests.support.sandbox_facts import cell_limits
from tests.support.wat_guest import session_of

GROW = "(drop (memory.grow (i32.const 1)))"
CLOCK = "(drop (call $clock (i32.const 0)))"


def broken(*args: Any) -> NoReturn:
    raise ZeroDivisionError


def failing(*args: Any) -> int:
    return -1


class Once(dict[int, Any]):
    """A record that is there when a memory grows and gone when its new base is asked for."""

    def __getitem__(self, key: int) -> Any:
        return self.pop(key)


def raise_on_entry(frame: FrameType, event: str, argument: object) -> None:
    """An exception before the callback's first line, where its own `try` cannot catch it."""
    if event == "call" and frame.f_code.co_name == "callback":
        raise MemoryError


def probe(what: str) -> None:
    system = linear_unsafe.system
    if what == "new memory":
        system.mmap = broken
    if what == "entry of new memory":
        sys.settrace(raise_on_entry)
    if what == "half-made memory that stays":
        real = system.mmap
        system.mmap = lambda address, *rest: linear_unsafe.MAP_FAILED if address else real(address, *rest)
        system.munmap = failing
    with session_of(GROW if what in ("grow", "get memory", "hook replaced") else CLOCK) as session:
        if what == "grow":
            system.mprotect = broken
        elif what == "get memory":
            linear_unsafe._live = Once(linear_unsafe._live)
        elif what == "import":
            OperationImports.on_clock = broken
        elif what == "entry of an import":
            sys.settrace(raise_on_entry)
        elif what == "finalizer":
            system.munmap = broken
        elif what == "finalizer that fails":
            system.munmap = failing
        elif what == "hook replaced":
            sys.unraisablehook = lambda unraisable: None
            sys.settrace(raise_on_entry)
        drive(session.run(Cell("", cell_limits())))


if __name__ == "__main__":
    probe(sys.argv[1])
    sys.settrace(None)
    os.write(1, b"survived\n")
