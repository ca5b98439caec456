"""The seven functions a guest can call: the whole of what it can touch outside its own memory.

They run on the guest's fiber, inside wasmtime. So they only check bounds, copy at most what a cap
allows, and note what the guest wants; decoding and answering happen later, on the host's stack.
None of them raises into wasmtime: a refusal becomes a fault in the handler and a trap.

Every call charges fuel for itself and for each byte, since host work costs the guest none, and
gives the slice back to the loop once it has used its wall quota.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final, Protocol

import wasmtime
from wasmtime import _bindings as ffi

from rlm_wasm.errors import GuestError, InternalError
from rlm_wasm.protocol.input_reads import InputAsked
from rlm_wasm.vm.fatal import guarded

MODULE: Final = "rlm"
# About what a call and a byte cost the host, in fuel: 100 M fuel ran 8.5 ms, a call takes up to 10 µs.
FUEL_PER_CALL: Final = 100_000
FUEL_PER_BYTE: Final = 4
# A request is work for the host's event loop, whatever comes of it: some 80 µs, most of them for deciding.
FUEL_PER_REQUEST: Final = 1_000_000
# A request is decoded too, at up to 8 ns a byte, and that time is on no cell's clock.
FUEL_PER_REQUEST_BYTE: Final = 64
SLICE_WALL_NS: Final = 10_000_000
ENTROPY_BYTES_MAX: Final = 256


class ImportHandler(Protocol):
    """What a guest call needs from its owner. Each method may raise a GuestError to end the call."""

    slice_began_ns: int
    # Set here when a call gives its slice back, cleared by the owner before each poll.
    gave_way: bool
    # Whether the owner wants to look at the guest before it goes on.
    must_stop: bool
    # What the guest asked and the owner has not taken yet.
    request: bytes | InputAsked | None

    def charge(self, fuel: int) -> None:
        """Take `fuel` from what the guest has left, down to nothing."""

    def refuse(self, error: GuestError) -> None:
        """Note why the call is about to trap."""

    def on_call(self, pointer: int, length: int, reply: int, capacity: int) -> None:
        """The guest hands over a request and waits; a response that fits goes to `reply`."""

    def on_take(self, pointer: int, capacity: int) -> int:
        """The guest takes the response it was told of, which did not fit."""

    def on_emit(self, stream: int, pointer: int, length: int) -> int:
        """The guest writes to a stream."""

    def on_clock(self, clock_id: int) -> int:
        """The guest reads a clock, in nanoseconds."""

    def on_entropy(self, pointer: int, length: int) -> int:
        """The guest asks for random bytes."""

    def on_read(self, number: int, offset: int, pointer: int, length: int) -> int | None:
        """The guest asks something of an input, and pays for it; None if it has to wait for its host."""

    def on_sleep(self, nanoseconds: int) -> bool:
        """The guest sleeps; False if there is nothing to wait for."""

    def wait_result(self) -> int | None:
        """Return the result of the call that waits, or None while there is none."""


class _Current(threading.local):
    """The guest that this thread runs. Set around each poll by `Call`.

    A fiber runs only inside a poll, on the thread that polls, so this is always the guest that is
    calling. One for each thread: a process may have several workers, and a poll runs without the GIL.
    """

    handler: ImportHandler | None = None


_current: Final = _Current()


def enter(handler: ImportHandler) -> None:
    """Name the guest that the next poll on this thread runs."""
    _current.handler = handler


def leave() -> None:
    """No guest runs on this thread."""
    _current.handler = None


def _handler() -> ImportHandler:
    handler = _current.handler
    if handler is None:
        raise InternalError("an import was called outside a poll")
    return handler


def _always(env: Any) -> bool:
    return True


def _once_later(env: Any) -> bool:
    # False ends this poll; the owner clears the flag before the next one.
    return not _handler().gave_way


def _when_answered(env: Any) -> bool:
    handler = _handler()
    if handler.request is not None:
        return False  # just asked: the owner has not even seen it
    if handler.must_stop or monotonic_ns() - handler.slice_began_ns >= SLICE_WALL_NS:
        # A wait that is over at once, a sleep of nothing or a request that is not read, must not get around
        # the slice's wall quota, nor around the owner's look at a guest whose fuel it took.
        handler.gave_way = True
        return False
    result = handler.wait_result()
    if result is None:
        return False
    ffi.wasmtime_val_t.from_address(env).of.i32 = result
    return True


_CONTINUE_NOW = ffi.wasmtime_func_async_continuation_callback_t(guarded(_always))
_CONTINUE_NEXT_SLICE = ffi.wasmtime_func_async_continuation_callback_t(guarded(_once_later))
_CONTINUE_WHEN_ANSWERED = ffi.wasmtime_func_async_continuation_callback_t(guarded(_when_answered))
_KIND_I32, _KIND_I64 = 0, 1
_I32, _I64 = wasmtime.ValType.i32, wasmtime.ValType.i64


def _define(kind: int, body: Callable[[ImportHandler, Any], tuple[int, bool]]) -> Any:
    """Wrap `body` (handler, args) -> (result, waits) as wasmtime's asynchronous callback."""

    def callback(
        env: Any, caller: Any, args: Any, args_n: int, results: Any, results_n: int, trap: Any, then: Any
    ) -> None:
        handler = _handler()
        value, continuation = results[0], then[0]
        value.kind = kind
        try:
            result, waits = body(handler, args)
        except GuestError as error:
            handler.refuse(error)
            trap[0] = ffi.wasmtime_trap_new(b"refused", 7)
            # Also with a trap: wasmtime panics over a continuation that is not set.
            continuation.callback = _CONTINUE_NOW
            return
        if waits:
            # The results stay valid until the continuation says it is done (wasmtime/async.h).
            continuation.env = ctypes.addressof(value)
            continuation.callback = _CONTINUE_WHEN_ANSWERED
            return
        if kind == _KIND_I64:
            value.of.i64 = result
        else:
            value.of.i32 = result
        if handler.must_stop or monotonic_ns() - handler.slice_began_ns >= SLICE_WALL_NS:
            handler.gave_way = True
            continuation.callback = _CONTINUE_NEXT_SLICE
        else:
            continuation.callback = _CONTINUE_NOW

    callback.__name__ = f"import_{body.__name__.lstrip('_')}"
    return ffi.wasmtime_func_async_callback_t(guarded(callback))


def _call(handler: ImportHandler, args: Any) -> tuple[int, bool]:
    length = args[1].of.i32
    handler.charge(FUEL_PER_REQUEST + FUEL_PER_REQUEST_BYTE * (length & 0xFFFF_FFFF))
    handler.on_call(args[0].of.i32, length, args[2].of.i32, args[3].of.i32)
    return 0, True


def _take(handler: ImportHandler, args: Any) -> tuple[int, bool]:
    count = handler.on_take(args[0].of.i32, args[1].of.i32)
    handler.charge(FUEL_PER_CALL + FUEL_PER_BYTE * max(count, 0))
    return count, False


def _emit(handler: ImportHandler, args: Any) -> tuple[int, bool]:
    length = args[2].of.i32
    handler.charge(FUEL_PER_CALL + FUEL_PER_BYTE * (length & 0xFFFF_FFFF))
    return handler.on_emit(args[0].of.i32, args[1].of.i32, length), False


def _clock(handler: ImportHandler, args: Any) -> tuple[int, bool]:
    handler.charge(FUEL_PER_CALL)
    return handler.on_clock(args[0].of.i32), False


def _entropy(handler: ImportHandler, args: Any) -> tuple[int, bool]:
    handler.charge(FUEL_PER_CALL)
    return handler.on_entropy(args[0].of.i32, args[1].of.i32), False


def _sleep(handler: ImportHandler, args: Any) -> tuple[int, bool]:
    handler.charge(FUEL_PER_CALL)
    return 0, handler.on_sleep(args[0].of.i64)


def _read(handler: ImportHandler, args: Any) -> tuple[int, bool]:
    handler.charge(FUEL_PER_CALL)
    result = handler.on_read(args[0].of.i32, args[1].of.i64, args[2].of.i32, args[3].of.i32)
    return result or 0, result is None


# name: parameters, result, callback. threat_model/host_imports.toml says why each exists.
IMPORTS: Final[dict[str, tuple[list[wasmtime.ValType], wasmtime.ValType, Any]]] = {
    "call": ([_I32(), _I32(), _I32(), _I32()], _I32(), _define(_KIND_I32, _call)),
    "take": ([_I32(), _I32()], _I32(), _define(_KIND_I32, _take)),
    "emit": ([_I32(), _I32(), _I32()], _I32(), _define(_KIND_I32, _emit)),
    "clock": ([_I32()], _I64(), _define(_KIND_I64, _clock)),
    "entropy": ([_I32(), _I32()], _I32(), _define(_KIND_I32, _entropy)),
    "sleep": ([_I64()], _I32(), _define(_KIND_I32, _sleep)),
    "read": ([_I32(), _I64(), _I32(), _I32()], _I32(), _define(_KIND_I32, _read)),
}
_NO_FINALIZER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(0)


def define_imports(linker: wasmtime.Linker) -> None:
    """Define the seven functions, and nothing else, in `linker`."""
    for name, (parameters, result, callback) in IMPORTS.items():
        kind = wasmtime.FuncType(parameters, [result])  # kept until the call has returned
        error = ffi.wasmtime_linker_define_async_func(
            linker.ptr(),
            ctypes.create_string_buffer(MODULE.encode()), len(MODULE),
            ctypes.create_string_buffer(name.encode()), len(name),
            kind.ptr(), callback, None, _NO_FINALIZER,
        )  # fmt: skip
        if error:
            raise InternalError(f"import {name}: {wasmtime.WasmtimeError._from_ptr(error)}")
