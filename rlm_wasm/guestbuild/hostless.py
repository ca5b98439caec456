"""Calls into a guest that has no host: while the image is made, and while CPython is trained."""

from __future__ import annotations

from time import monotonic_ns

from rlm_wasm.errors import ArtifactError, BoundaryViolation, GuestError
from rlm_wasm.protocol.input_reads import InputAsked
from rlm_wasm.vm.instance import Instance


class _NoHost:
    """Any import the guest calls ends the call."""

    def __init__(self) -> None:
        self.slice_began_ns = 0
        self.gave_way = False
        self.must_stop = False
        self.request: bytes | InputAsked | None = None
        self.fault: GuestError | None = None

    def charge(self, fuel: int) -> None:
        """Nothing to account for."""

    def refuse(self, error: GuestError) -> None:
        self.fault = error

    def _refused(self, *args: int) -> int:
        raise BoundaryViolation("the guest called the host while it had none")

    on_take = on_emit = on_clock = on_entropy = _refused

    def on_call(self, pointer: int, length: int, reply: int, capacity: int) -> None:
        self._refused()

    def on_read(self, number: int, offset: int, pointer: int, length: int) -> int | None:
        return self._refused()

    def on_sleep(self, nanoseconds: int) -> bool:
        return bool(self._refused())

    def wait_result(self) -> int | None:
        return None


def call_without_host(instance: Instance, name: str, results_n: int, arguments: tuple[int, ...] = ()) -> int:
    """Run the exported function `name` to its end and return its result (0 if it has none).

    Raises:
        ArtifactError: it trapped, or called the host.
    """
    handler = _NoHost()
    call = instance.begin(handler, name, arguments, results_n)
    try:
        while True:
            handler.slice_began_ns = monotonic_ns()
            if call.poll():
                break
        reason = call.take_trap()
        if reason is not None:
            raise ArtifactError(f"the guest's {name} failed: {handler.fault or reason}")
        return call.result
    finally:
        call.close()
