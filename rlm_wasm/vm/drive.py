"""One operation of one session, run to its end on the thread that asks."""

from __future__ import annotations

import select
from collections.abc import Callable
from time import monotonic_ns
from typing import TypeVar

from rlm_wasm.errors import BoundaryViolation
from rlm_wasm.protocol.commands import InputWanted, Requested
from rlm_wasm.protocol.input_reads import MISSING, InputAsked, InputPart
from rlm_wasm.vm.execution import Operation
from rlm_wasm.vm.steps import Sleep

_T = TypeVar("_T")


def drive(
    operation: Operation[_T],
    answer: Callable[[bytes], bytes] | None = None,
    read: Callable[[InputAsked], InputPart] | None = None,
) -> _T:
    """Run an operation to its end on this thread, answering its requests with `answer`.

    What it asks of inputs that lie with its host `read` gives; without it there are none.

    For one session at a time: benchmarks, `prepare`, tests. A loop over many uses the generator.
    """
    response: bytes | InputPart | None = None
    try:
        while True:
            step = operation.send(response)
            response = None
            if isinstance(step, Requested):
                if answer is None:
                    raise BoundaryViolation("the guest asked the host where nobody answers")
                response = answer(step.frame)
            elif isinstance(step, InputWanted):
                response = InputPart(status=MISSING) if read is None else read(step.asked)
            elif isinstance(step, Sleep):
                select.select([], [], [], max(0, step.until_ns - monotonic_ns()) / 1e9)
    except StopIteration as stop:
        value: _T = stop.value
        return value
    finally:
        operation.close()
